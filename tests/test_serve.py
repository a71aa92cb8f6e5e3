"""The web application: it answers what the page asks, serves only sounds of the library, and refuses others."""

import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import soundfile

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.serve import run
from cochlea_sb.serve.collection import short_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    for number in range(6):
        wav = 0.3 * np.sin(2 * np.pi * 200 * 1.3**number * np.arange(24000) / 16000)
        soundfile.write(folder / f"tone{number}.wav", wav, 16000)
    rng = np.random.default_rng(0)
    soundfile.write(folder / "<b>noise.aiff", 0.1 * rng.standard_normal(5 * 44100), 44100, subtype="PCM_24")
    return folder


@pytest.fixture(scope="module")
def site(folder, model_folder, tmp_path_factory):
    """Address of a running server."""
    library = SoundLibrary.create(
        tmp_path_factory.mktemp("library") / "a.library",
        AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"}),
    )
    library.add(folder, progress=False)
    server, address = run.prepare(library, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield address
    server.should_exit = True
    thread.join(30)


def get(address, headers=(), data=None):
    request = urllib.request.Request(address, data=data, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def results(address):
    status, _, body = get(address)
    assert status == 200, body
    return json.loads(body)["results"]


def test_the_page_and_what_it_may_load(site):
    status, headers, body = get(site)
    assert status == 200 and b"<title>cochlea</title>" in body
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    for file in ("app.js", "style.css"):
        assert get(f"{site}static/{file}")[0] == 200
    assert get(f"{site}static/../app.py")[0] == 404
    assert json.loads(get(f"{site}api/library")[2])["sounds"] == 7


def test_a_sound_of_the_library_finds_others(site, folder):
    query = short_name(str(folder / "tone2.wav"))
    found = results(f"{site}api/search?like={query}&k=10")
    assert len(found) == 6 and query not in [sound["id"] for sound in found]
    assert [sound["score"] for sound in found] == sorted((sound["score"] for sound in found), reverse=True)
    pages = [sound for skip in (0, 2, 4) for sound in results(f"{site}api/search?like={query}&k=2&skip={skip}")]
    assert pages == found
    part = results(f"{site}api/search?like={query},0.2,1.2&like={found[0]['id']}*-0.5&k=10")
    assert len(part) == 5
    assert [sound["name"] for sound in results(f"{site}api/search?like={query}&words=noise")] == ["<b>noise.aiff"]
    assert len(results(f"{site}api/random?k=3")) == 3


def test_an_uploaded_file_is_a_query(site, folder):
    content = (folder / "tone2.wav").read_bytes()
    status, _, body = get(f"{site}api/examples", data=content)
    assert status == 200
    found = results(f"{site}api/search?like={json.loads(body)['id']}&k=1")
    assert found[0]["name"] == "tone2.wav" and found[0]["score"] > 0.99
    status, _, body = get(f"{site}api/examples", data=b"no sound")
    assert status == 400 and "audio" in json.loads(body)["error"]


def test_audio_by_ranges(site, folder):
    address = f"{site}api/sounds/{short_name(str(folder / 'tone1.wav'))}/audio"
    content = (folder / "tone1.wav").read_bytes()
    assert get(address)[2] == content
    status, headers, body = get(address, {"Range": "bytes=100-199"})
    assert status == 206 and body == content[100:200] and headers["content-range"] == f"bytes 100-199/{len(content)}"
    address = f"{site}api/sounds/{short_name(str(folder / '<b>noise.aiff'))}/audio"
    status, headers, whole = get(address)
    assert status == 200 and headers["content-type"] == "audio/wav"
    size = 44 + 2 * 5 * 44100
    assert len(whole) == size and whole[:4] == b"RIFF"
    wav = np.frombuffer(whole[44:], "<i2") / 32767
    expected, _ = soundfile.read(folder / "<b>noise.aiff")
    np.testing.assert_allclose(wav, np.clip(expected, -1, 1), atol=1e-4)
    for first, last in ((0, 10), (20, 61), (45, 1000), (100_001, 100_100), (size - 5, size - 1)):
        status, headers, body = get(address, {"Range": f"bytes={first}-{last}"})
        assert status == 206 and body == whole[first : last + 1], (first, last)
    assert get(address, {"Range": f"bytes={size}-"})[0] == 416


def test_outlines(site, folder):
    status, _, body = get(f"{site}api/sounds/{short_name(str(folder / 'tone1.wav'))}/outline")
    facts = json.loads(body)
    assert status == 200 and len(facts["outline"]) == 240 and max(facts["outline"]) == 100
    assert facts["level"] == pytest.approx(20 * np.log10(0.3 / 2**0.5), abs=0.2)


@pytest.mark.parametrize(
    "place, words",
    [
        ("api/search", "0 examples"),
        ("api/search?like=nothing", "holds no sound 'nothing'"),
        ("api/search?like=../../etc/passwd", "holds no sound"),
        ("api/search?like=ID&k=x", "k is 'x'"),
        ("api/search?like=ID&min_seconds=x", "min_seconds is 'x'"),
        ("api/search?like=ID,5,2", "expected one inside"),
        ("api/search?like=ID*x", "weight is 'x'"),
        ("api/sounds/0123456789abcdef/audio", "holds no sound"),
    ],
)
def test_a_mistake_is_one_sentence(site, folder, place, words):
    status, _, body = get(site + place.replace("ID", short_name(str(folder / "tone1.wav"))))
    assert status in (400, 404) and words in json.loads(body)["error"]


def test_requests_from_elsewhere_are_refused(site):
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert get(f"{site}api/library", headers)[0] == 403
        assert get(f"{site}", headers)[0] == 403
    assert get(f"{site}api/library", {"Origin": site.rstrip("/")})[0] == 200


def test_other_addresses_want_the_printed_token(folder, model_folder, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams(model_folder))
    library.add(folder / "tone1.wav", progress=False)
    server, address = run.prepare(library, "0.0.0.0", 0)
    place, token = address.split("?token=")
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        place = place.replace("0.0.0.0", "127.0.0.1")
        assert get(f"{place}api/library")[0] == get(f"{place}?token=wrong")[0] == 403
        status, headers, _ = get(f"{place}?token={token}")
        assert status == 200 and "HttpOnly" in headers["set-cookie"]
        cookie = headers["set-cookie"].split(";")[0]
        assert get(f"{place}api/library", {"Cookie": cookie})[0] == 200
    finally:
        server.should_exit = True
        thread.join(30)
