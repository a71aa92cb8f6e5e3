"""Model folders from anyone: nothing in them runs, and each that is not a model is refused in one sentence."""

import os
import subprocess
import sys

import pytest
import torch
from hostile_models import HOSTILE

from cochlea_sb import AudioEncoder
from cochlea_sb.errors import UserError
from cochlea_sb.inference.model_folder import WEIGHTS, YAML, save_model
from cochlea_sb.training.recipe import load_experiment


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model as training leaves it."""
    folder = tmp_path_factory.mktemp("good")
    hparams, text = load_experiment("hparams/cnn.yaml", {"output_folder": str(folder / "run")})
    save_model(folder, text, hparams["embedding_model"])
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """Its copy, to be made hostile; code that runs would leave ``ran`` beside it."""
    copy = tmp_path / "model"
    copy.mkdir()
    for name in (YAML, WEIGHTS):
        (copy / name).write_bytes((good / name).read_bytes())
    return copy


def refused(folder):
    """The sentence with which a folder is refused."""
    with pytest.raises(UserError) as error:
        AudioEncoder.from_hparams(str(folder), run_opts={"device": "cpu"})
    sentence = str(error.value)
    assert sentence.isprintable() and str(folder) in sentence and len(sentence) < 1000
    assert not (folder.parent / "ran").exists()
    return sentence


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_hostile_model_is_refused(folder, good, name):
    spoil, said = HOSTILE[name]
    spoil(folder, folder.parent / "ran", good)
    assert said in refused(folder)


def test_links_within_the_folder_and_the_good_model_load(folder):
    os.rename(folder / WEIGHTS, folder / "weights")
    (folder / WEIGHTS).symlink_to("weights")
    assert AudioEncoder.from_hparams(str(folder)).encode_batch(torch.randn(1, 16000)).shape == (1, 1, 128)


def test_trusted_code_runs_as_in_speechbrain(folder):
    ran = folder.parent / "ran"
    text = (folder / YAML).read_text() + f"\nextra: !apply:os.mkdir ['{ran}']\n"
    (folder / YAML).write_text(text)
    refused(folder)
    AudioEncoder.from_hparams(str(folder), savedir=str(folder.parent / "saved"), trust_remote_code=True)
    assert ran.is_dir()


def test_a_name_that_is_nowhere_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="^'nobody/nothing' can't be fetched from the Hub, nor is it in the cache: .*offline"
    ):
        AudioEncoder.from_hparams("nobody/nothing", savedir=str(tmp_path))
    assert not (tmp_path / "models--nobody--nothing" / "snapshots").exists()


def test_the_first_model_of_a_process_is_read_as_carefully(folder):
    """HyperPyYAML changes how every yaml is read, from its first use on."""
    HOSTILE["yaml: tuple that HyperPyYAML evaluates"][0](folder, folder.parent / "ran", folder)
    code = f"from cochlea_sb import AudioEncoder; AudioEncoder.from_hparams({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert "is no part of a model" in done.stderr.splitlines()[-1] and not (folder.parent / "ran").exists()
