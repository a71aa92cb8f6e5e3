"""The page in a real browser: asked by a file, heard, walked, filtered, marked, mapped and taken away."""

import csv
import io
import json
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models

from cochlea_sb import AudioEncoder, SoundLibrary, Text
from cochlea_sb.serve import run
from cochlea_sb.synthetic.library import write_library

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="THE PAGE IS NOT TESTED: install chromium")
OPTIONS = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--use-gl=angle", "--use-angle=swiftshader"]
OPTIONS += ["--enable-unsafe-swiftshader", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """75 sounds of 25 kinds, a copy of one, and an AIFF of 24 bits."""
    folder = tmp_path_factory.mktemp("sounds")
    write_library(folder, 3)
    (folder / "copies").mkdir()
    wav, rate = soundfile.read(folder / "bell" / "bell_000.wav")
    soundfile.write(folder / "copies" / "bell_again.wav", 0.5 * wav, rate)
    soundfile.write(folder / "copies" / "odd.aiff", np.repeat(wav, 3), 3 * rate, subtype="PCM_24")
    return folder


@pytest.fixture(scope="module")
def site(sounds, tmp_path_factory):
    encoder = AudioEncoder.from_hparams(run_opts={"device": "cpu"})
    library = SoundLibrary.create(tmp_path_factory.mktemp("library") / "a.library", encoder)
    library.add(sounds, progress=False)
    with serving(library) as address:
        yield address


@contextmanager
def serving(library):
    server, address = run.prepare(library, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield address
    server.should_exit = True
    thread.join(30)


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, site):
    with opened(chromium, site) as page:
        yield page


@contextmanager
def opened(chromium, site):
    """The page, which must leave no error, and ask no other machine."""
    context = chromium.new_context(
        viewport={"width": 1440, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    problems, asked = [], []
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(20_000)
    page.goto(site)
    page.wait_for_selector(".card")
    yield page
    found = [problem for problem in problems if "GPU stall" not in problem]
    elsewhere = [url for url in asked if not url.startswith((site, "data:", "blob:"))]
    context.close()  # which cuts requests off
    assert (found, elsewhere) == ([], [])


def names(page):
    return page.eval_on_selector_all(".card", "cards => cards.map((card) => card.sound.name)")


def wait_for(page, expression, arg=None):
    """Wait until an expression is true. (`wait_for_function` needs "unsafe-eval", which the page's policy refuses.)"""
    deadline = time.monotonic() + 20
    while not (value := page.evaluate(expression, arg)):
        assert time.monotonic() < deadline, f"{expression} is {value}, at {page.url}"
        page.wait_for_timeout(30)


def ask_by(page, file):
    before = page.url
    page.set_input_files("#file", file)
    wait_for(page, "before => location.href !== before && !!document.querySelector('.card')", before)


def drop(page, path):
    """Drop a file on the page, as from the file manager."""
    content = list(Path(path).read_bytes())
    page.evaluate(
        """([content, name]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(content)], name));
            document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
        }""",
        [content, Path(path).name],
    )


def test_from_a_dropped_file_to_a_collection(page, sounds):
    drop(page, sounds / "bell" / "bell_001.wav")
    page.wait_for_url("**like=u*")
    wait_for(page, "document.querySelector('.card')?.sound.name === 'bell_001.wav'")
    assert page.locator(".example").inner_text().startswith("bell_001.wav")

    page.keyboard.press("ArrowRight")  # from the card that has the focus to the next
    stretch = page.evaluate("document.activeElement.sound")
    wait_for(page, "!document.getElementById('player').hidden")
    playing = "import('/static/player.js').then(({audio}) => !audio.paused && audio.currentTime > "
    wait_for(page, f"{playing} {stretch['start']} + 0.05)")
    assert page.locator("#now_name").inner_text() == stretch["name"]

    before = page.url
    page.keyboard.press("m")
    page.wait_for_url(f"**like={stretch['id']}*")
    wait_for(page, "!!document.querySelector('.card')")
    assert stretch["name"] not in names(page)
    page.go_back()
    page.wait_for_url(before)
    wait_for(page, "document.querySelector('.card')?.sound.name === 'bell_001.wav'")
    page.go_forward()
    page.wait_for_url(f"**like={stretch['id']}*")
    wait_for(page, "document.querySelectorAll('.card').length === 24")

    page.keyboard.press("/")
    page.keyboard.type("kick")
    page.keyboard.press("Enter")
    page.wait_for_url("**words=kick*")
    wait_for(page, "document.querySelectorAll('.card').length === 3")
    assert sorted(names(page)) == ["kick_000.wav", "kick_001.wav", "kick_002.wav"]
    page.keyboard.press("Escape")
    page.reload()
    wait_for(page, "document.querySelectorAll('.card').length === 3")

    wait_for(page, "document.activeElement === document.querySelector('.card')")
    page.keyboard.press("f")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("f")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("n")
    wait_for(page, "document.getElementById('marks').textContent === '2 yes, 1 no'")
    with page.expect_download() as download:
        page.click("#zip")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len([name for name in archive.namelist() if name.startswith("kick_")]) == 2
        assert len(list(csv.DictReader(io.StringIO(archive.read("sounds.csv").decode("utf-8-sig"))))) == 2
    page.fill("input[name=words]", "")
    page.keyboard.press("Enter")
    wait_for(page, "!location.search.includes('words')")
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    page.wait_for_url("**yes=*&yes=*&no=*")
    wait_for(page, "document.querySelector('#query').textContent.startsWith('Ranked by 2 yes and 1 no')")
    wait_for(page, "document.querySelectorAll('.card').length === 24")
    page.click("#show_collection")
    wait_for(
        page, "document.querySelectorAll('.card').length === 3 && document.querySelectorAll('.card.yes').length === 2"
    )


def test_a_mixture_with_weights(page, sounds):
    ask_by(page, sounds / "flute" / "flute_000.wav")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    wait_for(page, "new URLSearchParams(location.search).getAll('like').length === 2")
    wait_for(page, "document.querySelectorAll('.example').length === 2")
    first = page.locator(".example input").first
    first.fill("-0.5")
    first.press("Enter")
    wait_for(page, "new URLSearchParams(location.search).getAll('like')[0].endsWith('*-0.5')")
    wait_for(page, "document.querySelectorAll('.example.less').length === 1")
    wait_for(page, "document.querySelectorAll('.card').length > 0")


def test_words_are_a_query_if_the_encoder_takes_text(page, chromium, sounds, tmp_path):
    assert not page.is_visible("#describe")
    library = SoundLibrary.create(tmp_path / "a.library", tiny_models.LongWords())
    library.add(sounds / "bell", progress=False)
    with serving(library) as address, opened(chromium, address) as page:
        before = page.url
        page.fill("#describe input", "rain, on a *roof*")
        page.press("#describe input", "Enter")
        wait_for(page, "before => location.href !== before && !!document.querySelector('.card')", before)
        wanted = [Path(match.path).name for match in library.search(Text("rain  on a  roof"), fold_copies=True)]
        assert names(page) == wanted and wanted
        assert "“rain  on a  roof”" in page.text_content("#query")
        page.reload()
        page.wait_for_selector(".card")
        assert names(page) == wanted


def test_copies_are_folded_and_opened(page, sounds):
    ask_by(page, sounds / "bell" / "bell_000.wav")
    wait_for(page, "!!document.querySelector('.card .copies')")
    assert names(page)[0] in ("bell_000.wav", "bell_again.wav")
    page.locator(".card").first.focus()
    page.keyboard.press("o")
    wait_for(page, "!document.querySelector('.card .copies')")
    assert {"bell_000.wav", "bell_again.wav"} <= set(names(page)[:3])


def test_a_part_of_the_waveform_is_a_query(page):
    page.keyboard.press("ArrowRight")
    wait_for(page, "!document.getElementById('player').hidden")
    box = page.locator("#wave").bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 20, steps=4)
    page.mouse.up()
    page.wait_for_url("**like=*%2C*")
    like = page.evaluate("new URLSearchParams(location.search).get('like').split(',')")
    seconds = page.evaluate("id => fetch(`/api/sounds/${id}`).then((one) => one.json())", like[0])["seconds"]
    assert [float(second) / seconds for second in like[1:]] == pytest.approx([0.2, 0.7], abs=0.02)


def test_a_format_that_browsers_cannot_play_is_heard(page):
    page.fill("input[name=words]", "odd.aiff")
    page.keyboard.press("Enter")
    wait_for(page, "document.querySelectorAll('.card').length === 1")
    page.locator(".card").click()
    wait_for(page, "import('/static/player.js').then(({audio}) => audio.currentTime > 0.1)")
    page.keyboard.press("c")
    wait_for(page, "navigator.clipboard.readText().then((text) => text.endsWith('/copies/odd.aiff'))")


def test_previews_have_the_same_loudness(page):
    gains = page.evaluate(
        """import('/static/player.js').then(
            ({gainOf}) => [gainOf(-30, -25), gainOf(-10, -1), gainOf(-60, -6), gainOf(-90, -80)])"""
    )
    assert gains == pytest.approx([10**0.5, 10**-0.5, 10**0.3, 10**1.2])  # to -20 dB; never clipped; at most 24 dB
    page.keyboard.press("ArrowRight")
    wait_for(page, "import('/static/player.js').then(({audio}) => audio.currentTime > 0)")


def test_a_recording_is_trimmed_and_asked(page):
    trimmed = page.evaluate(
        """import('/static/recorder.js').then(({trimmed}) => {
            const wave = new Float32Array(44100);
            wave.fill(0.5, 20000, 30000);
            return trimmed(wave).length;
        })"""
    )
    assert trimmed == 10000 + 441 + 4410
    page.click("#record")
    wait_for(page, "document.getElementById('record').textContent === 'Stop'")
    page.wait_for_timeout(1500)  # of sound from the browser's own test microphone
    page.click("#record")
    page.wait_for_url("**like=u*")
    wait_for(page, "document.querySelectorAll('.card').length > 5")


def test_the_map(page):
    page.keyboard.press("g")
    ready = "import('/static/map.js').then(({state}) => state.ready && state.frames > 0)"
    wait_for(page, ready)
    found = page.evaluate(
        """import('/static/map.js').then(({nearest}) => {
            const box = document.getElementById('names').getBoundingClientRect();
            for (let y = 5; y < box.height - 60; y += 5) for (let x = 5; x < box.width; x += 5)
                if (nearest(x, y) >= 0) return [box.left + x, box.top + y];
        })"""
    )
    page.mouse.click(*found)
    wait_for(page, "!document.getElementById('player').hidden && document.getElementById('now_name').textContent")
    heard = page.locator("#now_name").inner_text()
    assert heard
    lit = page.evaluate(
        """() => {
            const canvas = document.getElementById('points'), copy = document.createElement('canvas');
            copy.width = canvas.width;
            copy.height = canvas.height;
            const pen = copy.getContext('2d');
            pen.drawImage(canvas, 0, 0);
            const values = pen.getImageData(0, 0, copy.width, copy.height).data;
            return values.filter((value, at) => at % 4 === 3 && value > 100).length;
        }"""
    )
    assert lit > 75 * 4  # pixels of the points
    page.keyboard.press("m")
    page.wait_for_url("**like=*")
    page.select_option("#colour", "folder")
    wait_for(page, "document.querySelectorAll('#legend span').length === 11")
    page.keyboard.press("g")
    wait_for(page, "document.getElementById('map').hidden")


def test_duplicates(page):
    page.click("#show_duplicates")
    wait_for(page, "document.querySelectorAll('.group').length >= 1")
    groups = page.eval_on_selector_all(
        ".group", "groups => groups.map((one) => [...one.children].map((card) => card.sound.name))"
    )
    assert any({"bell_000.wav", "bell_again.wav"} <= set(group) for group in groups)


@pytest.mark.parametrize("scheme, width", [("light", 1440), ("dark", 390)])
def test_everyone_can_use_it(page, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    page.keyboard.press("ArrowRight")
    wait_for(page, "!document.getElementById('player').hidden")
    page.keyboard.press("m")
    wait_for(page, "!!document.querySelector('.example')")
    page.evaluate("document.getElementById('tools').open = true")
    page.keyboard.press("?")
    wait_for(page, "document.getElementById('keys').open")
    page.keyboard.press("Escape")
    found = Axe().run(page).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps(serious, indent=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
