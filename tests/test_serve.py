"""The web application: it answers what the page asks, serves only sounds of the library, and refuses others."""

import csv
import io
import json
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import contextmanager
from types import SimpleNamespace
from urllib.parse import quote

import numpy as np
import pytest
import soundfile

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.serve import collection, guard, run
from cochlea_sb.serve.app import create_app
from cochlea_sb.serve.collection import POINT, kept_places, short_name
from cochlea_sb.serve.outlines import FILE, MOST, RECORD, Outline, Outlines


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
    with running(library, "127.0.0.1") as address:
        yield address


@contextmanager
def running(library, host):
    server, address = run.prepare(library, host, 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield address
    finally:
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


def test_sounds_in_random_order(site, folder):
    pages = [results(f"{site}api/browse?seed=5&k=3&skip={skip}") for skip in (0, 3, 6)]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert len({sound["id"] for page in pages for sound in page}) == 7
    assert pages[0] == results(f"{site}api/browse?seed=5&k=3") != results(f"{site}api/browse?seed=6&k=3")
    assert {
        sound["name"] for sound in results(f"{site}api/browse?words=tone -tone1&max_seconds=2".replace(" ", "%20"))
    } == {f"tone{number}.wav" for number in (0, 2, 3, 4, 5)}
    assert len(results(f"{site}api/browse?folder={quote(str(folder))}")) == 7
    assert results(f"{site}api/browse?folder=/nowhere") == []
    assert len(results(f"{site}api/browse?folder={quote(folder.name)}/")) == 7  # the end of the path is enough
    assert results(f"{site}api/search?like={short_name(str(folder / 'tone1.wav'))}&words=zzz&fold_copies=1") == []


def test_marks_rank_the_library(site, folder):
    ids = {number: short_name(str(folder / f"tone{number}.wav")) for number in range(6)}
    found = results(f"{site}api/rank?yes={ids[0]}&yes={ids[1]}&no={ids[5]}")
    assert len(found) == 4 and not {ids[0], ids[1], ids[5]} & {sound["id"] for sound in found}
    assert 1 >= found[0]["score"] >= found[-1]["score"] >= 0
    assert found[0]["name"] == "tone2.wav" and found[-1]["name"] != "tone2.wav"
    gone = "0" * 16
    assert results(f"{site}api/rank?yes={ids[0]}&yes={ids[1]}&no={ids[5]}&no={gone}") == found
    assert get(f"{site}api/rank?yes={gone}")[0] == 400
    doubtful = results(f"{site}api/rank?yes={ids[0]}&no={ids[5]}&doubtful=1&k=2")
    rest = results(f"{site}api/rank?yes={ids[0]}&no={ids[5]}")
    assert abs(doubtful[0]["score"] - 0.5) == min(abs(sound["score"] - 0.5) for sound in rest)


def test_a_collection_as_zip(site, folder):
    names = ["tone3.wav", "<b>noise.aiff"]
    query = "&".join(f"id={short_name(str(folder / name))}" for name in names)
    status, headers, body = get(f"{site}api/collection.zip?{query}")
    assert status == 200 and "sounds.zip" in headers["content-disposition"]
    assert get(f"{site}api/collection.zip?id={'0' * 16}")[0] == 400
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None and archive.infolist()[0].date_time[0] >= 2026
        assert {name: archive.read(name) for name in names} == {name: (folder / name).read_bytes() for name in names}
        rows = list(csv.DictReader(io.StringIO(archive.read("sounds.csv").decode("utf-8-sig"))))
    assert [(row["file"], row["path"], row["seconds"]) for row in rows] == [
        (names[0], str(folder / names[0]), "1.500"),
        (names[1], str(folder / names[1]), "5.000"),
    ]


def test_a_file_is_downloaded_under_its_name(site, folder):
    name = "<b>noise.aiff"
    status, headers, body = get(f"{site}api/sounds/{short_name(str(folder / name))}/file")
    assert status == 200 and body == (folder / name).read_bytes()
    assert headers["content-disposition"] == f"attachment; filename*=UTF-8''{quote(name)}"


def test_a_library_of_somebody_else_gives_no_file_that_is_no_sound(folder, model_folder, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams(model_folder))
    path = shutil.copy(folder / "tone1.wav", tmp_path / "secret")
    library.add(path, progress=False)
    name = short_name(str(path))
    with running(library, "127.0.0.1") as address:
        assert get(f"{address}api/sounds/{name}/file")[0] == 200
        (tmp_path / "secret").write_text("password")
        assert get(f"{address}api/sounds/{name}/file")[0] == 404
        assert get(f"{address}api/sounds/{name}/audio")[0] == 400
        with zipfile.ZipFile(io.BytesIO(get(f"{address}api/collection.zip?id={name}")[2])) as archive:
            assert archive.namelist() == ["sounds.csv"]
        os.unlink(path)
        os.mkfifo(path)  # reading it would wait for ever
        assert [get(f"{address}api/sounds/{name}/{kind}")[0] for kind in ("file", "audio", "outline")] == [
            404,
            400,
            400,
        ]


def test_the_map(site, folder):
    facts = json.loads(get(f"{site}api/map")[2])
    assert facts["ready"] and facts["count"] == 7 and facts["folders"] == [str(folder)]
    assert "tone" in [region["name"] for region in facts["regions"]] or facts["regions"] == []
    points = np.frombuffer(get(f"{site}api/map/points")[2], POINT)
    assert {point.tobytes().hex() for point in points["id"]} == {short_name(str(path)) for path in folder.iterdir()}
    assert np.frombuffer(bytes(POINT.itemsize), POINT)["id"][0].tobytes() == bytes(8)  # an id may end with zeros
    places = np.stack([points["x"], points["y"]], 1) / 65535
    assert places.min() >= 0 and places.max() <= 1 and places.std() > 0.1
    assert get(f"{site}api/map?by=magic")[0] == 400


def test_a_map_of_neighbours_is_kept(tmp_path, monkeypatch):
    state = SimpleNamespace(manifest={"next_window": 3})
    vectors = np.eye(3, dtype=np.float32)
    computed = []
    monkeypatch.setattr(collection, "neighbour_places", lambda given: computed.append(1) or given[:, :2] / 2)
    first = kept_places(tmp_path, state, vectors)
    np.testing.assert_array_equal(kept_places(tmp_path, state, vectors), first)
    assert len(computed) == 1
    (kept,) = tmp_path.glob("map-*.npy")
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(kept_places(tmp_path, state, vectors), first)
    kept_places(tmp_path, SimpleNamespace(manifest={"next_window": 4}), vectors)
    assert len(computed) == 3 and len(list(tmp_path.glob("map-*.npy"))) == 1


def test_duplicates(site):
    deadline = time.monotonic() + 60
    while (found := json.loads(get(f"{site}api/duplicates")[2]))["done"] < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == {"done": 1, "groups": []}


def test_a_search_for_duplicates_that_fails_is_told(site, monkeypatch, capfd):
    def fail(state, watch):
        raise ValueError("a defect")

    monkeypatch.setattr(collection, "find_duplicates", fail)
    task = collection.Task(lambda watch: collection.find_duplicates(None, watch))
    task.thread.join(10)
    assert task.error == "a defect" and "Traceback" in capfd.readouterr().err


def test_the_interface_is_described(site):
    described = json.loads(get(f"{site}static/openapi.json")[2])["paths"]
    app = create_app(SimpleNamespace(), None)
    routes = {
        (route.path, method.lower())
        for route in app.routes
        if route.path.startswith("/api")
        for method in route.methods
    }
    assert {(path, method) for path, methods in described.items() for method in methods} == routes - {
        (path, "head") for path, _ in routes
    }


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
    assert facts["peak"] == pytest.approx(20 * np.log10(0.3), abs=0.1)


def test_outlines_are_kept_beside_the_library(tmp_path, monkeypatch):
    one = Outline(list(range(100)) * 2 + [7] * 40, -20.5, -3.0)
    outlines = Outlines(tmp_path)
    outlines.put("0" * 16, one)
    assert Outlines(tmp_path).get("0" * 16) == one and Outlines(tmp_path).get("1" * 16) is None
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes() + b"torn")  # a process was killed while it wrote
    again = Outlines(tmp_path)
    again.put("1" * 16, one)
    assert Outlines(tmp_path).get("1" * 16) == Outlines(tmp_path).get("0" * 16) == one
    monkeypatch.setattr("cochlea_sb.serve.outlines.MOST", 2)
    for number in range(5):
        again.put(f"{number:016}", one)
        assert file.stat().st_size <= 2 * RECORD.itemsize
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"precious")
    file.unlink()
    file.symlink_to(elsewhere)  # a library made by somebody else
    Outlines(tmp_path).put("0" * 16, one)
    assert elsewhere.read_bytes() == b"precious" and MOST * RECORD.itemsize < 30e6


@pytest.mark.parametrize(
    "place, words",
    [
        ("api/search", "0 examples"),
        ("api/search?like=nothing", "holds no sound 'nothing'"),
        ("api/search?like=../../etc/passwd", "holds no sound"),
        ("api/search?like=u0123", "forgotten your sound"),
        ("api/search?like=ID&k=x", "k is 'x'"),
        ("api/browse?seed=-1", "seed is '-1'"),
        ("api/rank", "No sound is marked with yes"),
        ("api/rank?yes=ID&no=ID", "marked with yes and with no"),
        ("api/collection.zip", "has 0 sounds"),
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


def test_what_changed_on_the_disk_is_seen(folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(collection, "LOOK_SECONDS", 0.0)
    encoder = AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    library.add(folder / "tone1.wav", progress=False)
    with running(library, "127.0.0.1") as address:
        assert json.loads(get(f"{address}api/library")[2])["sounds"] == 1
        SoundLibrary.open(tmp_path / "a.library", encoder).add(folder / "tone2.wav", progress=False)
        assert json.loads(get(f"{address}api/library")[2])["sounds"] == 2
        assert results(f"{address}api/search?like={short_name(str(folder / 'tone2.wav'))}")[0]["name"] == "tone1.wav"
        monkeypatch.setattr(guard, "MOST_WAITING", 0)
        status, headers, body = get(f"{address}api/library")
        assert status == 503 and headers["retry-after"] == "1" and "Too many" in json.loads(body)["error"]


def test_other_addresses_want_the_printed_token(folder, model_folder, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", AudioEncoder.from_hparams(model_folder))
    library.add(folder / "tone1.wav", progress=False)
    with running(library, "0.0.0.0") as address:
        place, token = address.split("?token=")
        place = place.replace("0.0.0.0", "127.0.0.1")
        assert get(f"{place}api/library")[0] == get(f"{place}?token=wrong")[0] == 403
        status, headers, _ = get(f"{place}?token={token}")
        assert status == 200 and "HttpOnly" in headers["set-cookie"]
        cookie = headers["set-cookie"].split(";")[0]
        assert get(f"{place}api/library", {"Cookie": cookie})[0] == 200
