"""Fixtures for the tests and for the doctests of the package."""

import os
import tempfile

# Before `datasets` is imported: the tests keep their cache to themselves and stay off the network.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="cochlea_sb-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"

import sys  # noqa: E402

import imageio_ffmpeg  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from speechbrain.utils.importutils import LazyModule  # noqa: E402
from warm import Warm  # noqa: E402

from cochlea_sb.inference.model_folder import save_model  # noqa: E402
from cochlea_sb.training.recipe import load_experiment  # noqa: E402

# MTEB wants Python 3.11.
collect_ignore = [] if sys.version_info >= (3, 11) else ["cochlea_sb/integrations/mteb.py", "tests/test_mteb.py"]

# Hypothesis asks every module for its file; SpeechBrain's stand-ins for optional packages answer by an ImportError.
for module in list(sys.modules.values()):
    if isinstance(module, LazyModule):
        module.__dict__.setdefault("__file__", None)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A folder with an untrained model, as training leaves it."""
    hparams, _ = load_experiment("hparams/cnn.yaml", {"output_folder": str(tmp_path_factory.mktemp("results"))})
    encoder = hparams["embedding_model"]
    with torch.no_grad():  # statistics as after some training, so that nothing is trivially normalised
        for _ in range(3):
            encoder.train()(torch.randn(64, 96, 64) * 4 - 10)
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, hparams["compute_features"], encoder)
    return str(folder)


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory):
    """A folder with three sounds."""
    folder, times = tmp_path_factory.mktemp("sounds"), np.arange(24000) / 16000
    for name, hertz in (("low", 200), ("middle", 300), ("high", 5000)):
        soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * hertz * times), 16000)
    return str(folder)


@pytest.fixture(scope="session")
def script():
    """``script(path, *arguments, cwd=, env=, status=0)`` runs a script as its users do; see tests/warm.py."""
    return Warm()


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """A real FFmpeg as the only program on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())
    monkeypatch.setenv("PATH", str(folder))
    return str(folder / "ffmpeg")
