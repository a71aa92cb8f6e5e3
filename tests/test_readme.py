"""Every command and every python block of the README runs (with few steps), in its order, as one user's session."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cochlea_sb.data.synthetic import write_library

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
FEW_STEPS = ["--batch_size", "16", "--number_of_epochs", "1", "--steps_per_epoch", "3"]
FEWER = {"train.py": FEW_STEPS, "reproduce.py": ["--recipes", "noise", "--folds", "1", "--seeds", "1", *FEW_STEPS]}
WITHOUT_STEPS = "hparams/bag_of_audio_words.yaml"


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """A user's home: the project's scripts, a folder of samples, a few files."""
    home = tmp_path_factory.mktemp("home")
    for name in ("recipes", "hparams"):
        os.symlink(ROOT / name, home / name)
    write_library(home / "samples", 4)
    write_library(home / "labelled", 4)
    metadata = home / "labelled" / "metadata.csv"  # without sources, or a fold would hold none but takes of one
    rows = [line.split(",") for line in metadata.read_text().splitlines()]
    metadata.write_text("\n".join(",".join(row[:2] + row[3:]) for row in rows) + "\n")
    rng = np.random.default_rng(0)
    (home / "more").mkdir()
    names = {"samples/dog.wav": 1, "more/cat.wav": 1, "dog.wav": 1, "rain.flac": 2, "long.wav": 5, "song.wav": 15}
    for path, seconds in (names | {"drums.wav": 1, "flute.wav": 2}).items():
        soundfile.write(home / path, 0.1 * rng.normal(size=16000 * seconds), 16000)
    return home


def commands():
    for kind, block in BLOCKS:
        if kind == "python":
            yield [sys.executable, "-c", block]
        for line in block.splitlines() if kind == "bash" else ():
            words = shlex.split(line, comments=True)
            if words[0] == "python":
                fewer = [] if WITHOUT_STEPS in words else FEWER.get(Path(words[1]).name, [])
                yield [sys.executable, *words[1:], *fewer]
            elif words[0] == "cochlea":
                yield [str(Path(sys.executable).with_name("cochlea")), *words[1:]]


def test_the_two_commands_come_first_and_exist():
    lines = BLOCKS[0][1].splitlines()
    assert [line.split("#")[0].strip() for line in lines] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ndemo:" in makefile and "\ntest:" in makefile


def test_every_command_and_block_runs(session):
    ran = list(commands())
    assert len(ran) >= 5
    for command in ran:
        command = [word.replace("~", str(session)) for word in command]
        done = subprocess.run(
            command, cwd=session, env=os.environ | {"HOME": str(session)}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_files_and_options_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for path in re.findall(r"`((?:cochlea_sb|recipes|hparams|benchmarks)/[\w./]*)`", text):
        assert (ROOT / path).exists(), path
