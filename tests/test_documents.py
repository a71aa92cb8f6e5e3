"""Every command and python block of the README and of the pages for users runs, in order and with few steps.

Each page is one user's session, with a home and a Hub of its own.
"""

import os
import re
import shlex
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_models
from hub_server import TOKEN, Hub

from cochlea_sb.synthetic.library import write_library

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": 6,
    "docs/library.md": 12,
    "docs/python.md": 3,
    "docs/train.md": 6,
    "docs/publish.md": 12,
    "docs/batch.md": 5,
    "docs/compare.md": 5,
    "docs/encoders.md": 11,
}
PAGES |= {"docs/index.md": 1}  # the least number of commands and blocks on each page
OTHER_PAGES = [
    "docs/scale.md",
    "docs/safety.md",
    "docs/page.md",
    "docs/experiments.md",
    "cochlea_sb/pretrained/README.md",
]
FEW_STEPS = ["--batch_size", "16", "--number_of_epochs", "1", "--steps_per_epoch", "3", "--n_sources", "6"]
FEW_STEPS += ["--channels", "[16, 32, 64]"]
FEWER = {
    "train.py": FEW_STEPS,
    "reproduce.py": ["--recipes", "log_mel", "--folds", "1", "--seeds", "1"],  # tests/test_recipes.py trains others
}
WITHOUT_STEPS = "hparams/bag_of_audio_words.yaml"
MODELS = {  # of others, on the Hub of the tests
    "laion/clap-htsat-unfused": tiny_models.write_clap,
    "speechbrain/spkrec-ecapa-voxceleb": tiny_models.write_ecapa,
}
AISFX = "aisfx"  # is installed without its dependencies, which are old
ELSEWHERE = {"make": "CI runs these", "pip": "CI installs by make", "docs/index.md": "benchmarks, which are no tests"}
ELSEWHERE |= {"torchrun": "tests/test_recipes.py runs it"}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A folder of labelled sounds."""
    folder = tmp_path_factory.mktemp("samples")
    write_library(folder, 3)
    return folder


@pytest.fixture
def session(samples, tmp_path):
    """A user's home: the project's scripts, folders of samples, a few files; and the user's environment."""
    for name in ("recipes", "hparams"):
        os.symlink(ROOT / name, tmp_path / name)
    for name in ("samples", "labelled"):
        shutil.copytree(samples, tmp_path / name)
    metadata = tmp_path / "labelled" / "metadata.csv"  # without sources, or a fold would hold only takes of one source
    rows = [line.split(",") for line in metadata.read_text().splitlines()]
    metadata.write_text("\n".join(",".join(row[:2] + row[3:]) for row in rows) + "\n")
    rng = np.random.default_rng(0)
    (tmp_path / "more").mkdir()
    names = {
        "samples/dog.wav": 1,
        "samples/rain.flac": 1,
        "more/cat.wav": 1,
        "dog.wav": 1,
        "rain.flac": 2,
        "long.wav": 5,
        "song.wav": 15,
    }
    for path, seconds in (names | {"drums.wav": 1, "flute.wav": 2}).items():
        soundfile.write(tmp_path / path, 0.1 * rng.normal(size=16000 * seconds), 16000)
    (tmp_path / "yes.txt").write_text("samples/dog.wav\nsamples/rain.flac\n")
    (tmp_path / "no.txt").write_text("more/cat.wav\n")
    with Hub() as hub:
        environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
        environment |= {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        yield tmp_path, environment | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}, hub


def blocks(page):
    return re.findall(r"```(bash|python)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def commands(page):
    for kind, block in blocks(page):
        if kind == "python":
            yield ["-c", block]
        for line in block.replace("\\\n", "").splitlines() if kind == "bash" else ():
            words = shlex.split(line, comments=True)
            if words[0] == "python" and page not in ELSEWHERE:
                fewer = [] if WITHOUT_STEPS in words else FEWER.get(Path(words[1]).name, [])
                yield [*words[1:], *fewer]
            elif words[0] in ("cochlea", "hf"):
                yield words
            else:
                assert words[0] in ELSEWHERE or page in ELSEWHERE, line


def test_the_two_commands_come_first_and_exist():
    lines = blocks("README.md")[0][1].splitlines()
    assert [line.split("#")[0].strip() for line in lines] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile and "\ntest:" in makefile


def test_the_demo_runs(script, tmp_path):
    for name in ("recipes", "hparams"):
        os.symlink(ROOT / name, tmp_path / name)
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    said = []
    for line in re.search(r"^demo:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1].splitlines():
        program, *words = shlex.split(
            line.replace("write_library('results/sounds')", "write_library('results/sounds', 4)")
        )
        if words[0].startswith("recipes/"):
            words += ["--sounds_per_class", "4", *(FEW_STEPS if "train.py" in words[0] else ["--few_labels", "[1]"])]
        words = words if program == "$(BIN)/python" else [program.removeprefix("$(BIN)/"), *words]
        said.append(script(*words, cwd=tmp_path).stdout)
    query = shlex.split(line)[-1]
    assert [("| model | 0." in text) for text in said] == [False, True, True, False, False, False]
    assert "results/sounds/" in said[-1] and query not in said[-1]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_block_runs(page, session, script):
    home, environment, hub = session
    ran = list(commands(page))
    assert len(ran) >= PAGES[page]
    for name, write in MODELS.items() if page == "docs/encoders.md" else ():
        write(home / "tiny" / name)
        hub.put(name, tiny_models.files_of(home / "tiny" / name))
    for kind, block in blocks(page):
        if kind == "python" and AISFX in block:
            (home / "my_encoder.py").write_text(block)
    left_out = [] if find_spec(AISFX) else [command for command in ran if AISFX in " ".join(command)]
    for command in ran:
        if command in left_out:
            continue
        script(*(word.replace("~", str(home)) for word in command), cwd=home, env=environment, timeout=300)
    if left_out:
        pytest.skip("THE EXAMPLE OF AISFX IS NOT TESTED: pip install --no-deps aisfx")


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES])
def test_files_and_links_that_a_page_names_exist(page):
    text = (ROOT / page).read_text()
    for path in re.findall(r"`((?:cochlea_sb|recipes|hparams|benchmarks|docs|tests)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\((?!http)([^)#]*)(#[^)]*)?\)", text):
        target = (ROOT / page).parent / link[0] if link[0] else ROOT / page
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if link[1] else []
        anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not link[1] or link[1] in anchors, link
