"""Programs without a console: stdout and stderr are None, closed, or closed below Python."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile

from cochlea_sb import AudioEncoder, SoundLibrary, cli, program
from cochlea_sb.data.frames import compute_frames
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.machine import is_open

KINDS = pytest.mark.parametrize("kind", ["none", "closed", "closed below Python"])


def close_console(kind, folder, monkeypatch):
    """Called in a test's body, because pytest replaces the streams when its fixtures are done."""
    for name in ("stdout", "stderr"):
        stream = None
        if kind != "none":
            with open(folder / name, "w") as file:
                number = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD, 700)  # so high that no other file takes it
            stream = open(number, "w", closefd=False)
            os.close(number)
            if kind == "closed":
                stream.close()
        monkeypatch.setattr(sys, name, stream)


@pytest.fixture(autouse=True)
def bars_again():
    yield
    datasets.enable_progress_bars()


@KINDS
def test_no_bar_is_shown_and_nothing_fails(kind, model_folder, sound_folder, tmp_path, monkeypatch):
    close_console(kind, tmp_path, monkeypatch)
    assert not is_open(sys.stdout) and not is_open(sys.stderr)
    encoder = AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})
    assert SoundLibrary.create(tmp_path / "library", encoder).add(sound_folder).added == 3
    assert len(encoder.encode_files([f"{sound_folder}/low.wav"])[0]) == 1
    front_end = encoder.mods.compute_features
    assert len(compute_frames(load_sounds(sound_folder), front_end, num_proc=1, cache_folder=tmp_path / "frames")) == 3


@KINDS
def test_commands_end_with_their_status(kind, model_folder, sound_folder, tmp_path, monkeypatch):
    close_console(kind, tmp_path, monkeypatch)
    library = str(tmp_path / "library")
    monkeypatch.setattr(sys, "argv", ["cochlea", "index", sound_folder, "--library", library, "--model", model_folder])
    cli.cochlea()
    assert len(SoundLibrary.open(library)) == 3
    close_console(kind, tmp_path, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["cochlea", "info", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as end:
        cli.cochlea()
    assert end.value.code == program.STATUS_MISTAKE


def test_streams_that_are_no_files_can_be_written(capsys):
    assert is_open(sys.stdout) and is_open(sys.stderr)


@pytest.mark.parametrize("shown", [True, False])
def test_the_decoders_own_warnings_are_hidden(shown, model_folder, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "whole.mp3", 0.5 * np.sin(0.05 * np.arange(132300)), 44100)
    damaged = bytearray((tmp_path / "whole.mp3").read_bytes())
    for place in rng.integers(len(damaged) // 3, len(damaged), 60).tolist():
        damaged[place] = int(rng.integers(256))
    (tmp_path / "damaged.mp3").write_bytes(damaged)
    command = [str(Path(sys.executable).parent / "cochlea"), "index", str(tmp_path / "damaged.mp3")]
    command += ["--library", str(tmp_path / "library"), "--model", model_folder]
    environment = os.environ | ({"COCHLEA_TRACEBACK": "1"} if shown else {})
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert ("mpg123" in done.stderr) == shown
    assert "Indexing" in done.stderr and "holds 1 sounds" in done.stdout
