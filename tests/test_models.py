"""Model folders: what is saved loads again, also with plain SpeechBrain; a stranger's folder runs nothing."""

import json
import os
import resource
import shutil

import pytest
import torch
from hostile_models import HOSTILE
from speechbrain.inference.classifiers import EncoderClassifier

from cochlea_sb import AudioEncoder
from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import WindowEncoder
from cochlea_sb.errors import UserError
from cochlea_sb.features import MFCC, LogMel
from cochlea_sb.inference.audio_encoder import copy_weights
from cochlea_sb.inference.model_folder import CONFIG, WEIGHTS, YAML, save_model
from cochlea_sb.training.recipe import load_experiment

CPU = {"device": "cpu"}


class Halves(WindowEncoder):
    """An encoder of somebody's own: means of the two halves of a window."""

    def __init__(self, silence, scale=(1.0,)):
        super().__init__(silence)
        self.scale, self.embedding_size = list(scale), 128

    def encode(self, windows):
        return torch.cat([windows[:, :48].mean(1), windows[:, 48:].mean(1) * self.scale[0]], dim=1)


class Forgetful(Halves):
    def __init__(self, silence, secret):
        super().__init__(silence)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model as training leaves it."""
    folder = tmp_path_factory.mktemp("good")
    hparams, _ = load_experiment("hparams/cnn.yaml", {"output_folder": str(folder / "run")})
    save_model(folder, hparams["compute_features"], hparams["embedding_model"])
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """Its copy, to be made hostile; code that ran would leave ``ran`` beside it."""
    return shutil.copytree(good, tmp_path / "model")


def refused(folder):
    """The sentence that refuses a folder."""
    with pytest.raises(UserError) as error:
        AudioEncoder.from_hparams(str(folder), run_opts=CPU)
    sentence = str(error.value)
    assert sentence.isprintable() and str(folder) in sentence and len(sentence) < 1000
    assert not (folder.parent / "ran").exists()
    return sentence


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_model_is_refused(folder, good, name):
    spoil, said = HOSTILE[name]
    spoil(folder, folder.parent / "ran", good)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert said in refused(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_links_within_the_folder_and_the_good_model_load(folder):
    os.rename(folder / WEIGHTS, folder / "weights")
    (folder / WEIGHTS).symlink_to("weights")
    assert AudioEncoder.from_hparams(str(folder)).encode_batch(torch.randn(1, 16000)).shape == (1, 1, 128)


def test_the_yaml_is_not_read_and_trusted_code_runs_as_in_speechbrain(folder):
    ran = folder.parent / "ran"
    text = (folder / YAML).read_text() + f"\nextra: !apply:os.mkdir ['{ran}']\n"
    (folder / YAML).write_text(text)
    AudioEncoder.from_hparams(str(folder), run_opts=CPU)
    assert not ran.exists()
    AudioEncoder.from_hparams(str(folder), savedir=str(folder.parent / "saved"), trust_remote_code=True)
    assert ran.is_dir()


@pytest.mark.parametrize(
    "recipe", ["cnn", "resnet50", "seq2seq", "log_mel", "bag_of_audio_words_mfcc", "bag_of_audio_words_chroma"]
)
@pytest.mark.parametrize("savedir", [False, True])
def test_both_loaders_and_what_was_saved_give_the_same_numbers(recipe, savedir, tmp_path):
    hparams, _ = load_experiment(f"hparams/{recipe}.yaml", {"output_folder": str(tmp_path / "run")})
    front_end, encoder = hparams["compute_features"], hparams["embedding_model"]
    with torch.no_grad():  # no value that a constructor would give
        for name, value in sorted(encoder.state_dict().items()):
            if value.is_floating_point():
                generator = torch.Generator().manual_seed(len(name))
                value.add_(torch.rand(value.shape, generator=generator) * 0.001)
    save_model(tmp_path / "model", front_end, encoder)
    x = torch.randn(2, 40000, generator=torch.Generator().manual_seed(1)) * torch.linspace(0, 1, 40000)
    with torch.inference_mode():
        expected = encoder.eval()(front_end(x))
    ours = AudioEncoder.from_hparams(tmp_path / "model", run_opts=CPU)
    ours.save(tmp_path / "again")
    saved = str(tmp_path / "saved") if savedir else None
    for loaded in (
        ours,
        AudioEncoder.from_hparams(tmp_path / "again", run_opts=CPU),
        EncoderClassifier.from_hparams(str(tmp_path / "again"), savedir=saved, run_opts=CPU),
    ):
        with torch.inference_mode():  # torch runs an LSTM in another way outside of it
            assert torch.equal(loaded.encode_batch(x), expected)
    for name in (CONFIG, YAML, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_numbers_of_every_form_survive_config_and_yaml(tmp_path):
    front_end = MFCC(n_mfcc=13, floor=1e-12, low_hz=0.1 + 0.2, hop_seconds=0.01)
    save_model(tmp_path, front_end, FlattenedLogMel(silence=-1e-07, frame_size=13, level=MFCC.level))
    plain = EncoderClassifier.from_hparams(str(tmp_path), run_opts=CPU)
    for encoder in (AudioEncoder.from_hparams(tmp_path, run_opts=CPU), plain):
        front, model = encoder.mods.compute_features, encoder.mods.embedding_model
        assert front.settings() == front_end.settings()
        assert model.settings() == {"silence": -1e-07, "frame_size": 13, "hop_frames": 48, "level": MFCC.level}


def test_an_encoder_of_ones_own_is_saved_and_loads_where_it_is_trusted(tmp_path):
    front_end, x = LogMel(), torch.randn(2, 30000)
    save_model(tmp_path, front_end, Halves(front_end.silence, scale=[2.5]))
    assert "trust_remote_code=True loads other classes" in refused(tmp_path)
    trusted = AudioEncoder.from_hparams(str(tmp_path), trust_remote_code=True, run_opts=CPU)
    with torch.inference_mode():
        assert torch.equal(trusted.encode_batch(x), Halves(front_end.silence, [2.5])(front_end(x)))
    with pytest.raises(UserError, match="'secret': an encoder must keep each argument"):
        save_model(tmp_path / "other", front_end, Forgetful(front_end.silence, 5))
    with pytest.raises(UserError, match="Halves has the scale"):
        save_model(tmp_path / "other", front_end, Halves(front_end.silence, [[1.0]]))


def test_saving_replaces_each_file_as_a_whole_and_others_may_read_them(folder):
    before = {name: (folder / name).stat() for name in (CONFIG, YAML, WEIGHTS)}
    AudioEncoder.from_hparams(folder, run_opts=CPU).save(folder)
    for name, was in before.items():
        now = (folder / name).stat()
        assert now.st_ino != was.st_ino and now.st_mode == (folder / CONFIG).stat().st_mode
    assert sorted(path.name for path in folder.glob(".*")) == []
    assert json.loads((folder / CONFIG).read_text())["parameters"] == 1735724


def test_a_name_that_is_nowhere_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match="^'nobody/nothing' can't be fetched from the Hub, nor is it in the cache: .*offline"
    ):
        AudioEncoder.from_hparams("nobody/nothing", savedir=str(tmp_path))
    assert not (tmp_path / "models--nobody--nothing" / "snapshots").exists()


def test_training_goes_on_from_a_model_with_the_same_settings(folder):
    hparams, _ = load_experiment("hparams/cnn.yaml", {})
    copy_weights(folder, hparams["compute_features"], hparams["embedding_model"])
    theirs = AudioEncoder.from_hparams(folder, run_opts=CPU).mods.embedding_model.state_dict()
    for name, own in hparams["embedding_model"].state_dict().items():
        assert torch.equal(own, theirs[name])
    for other in ({"embedding_size": 64}, {"low_hz": 50.0}):
        hparams, _ = load_experiment("hparams/cnn.yaml", other)
        with pytest.raises(UserError, match="has other settings or another kind of encoder"):
            copy_weights(folder, hparams["compute_features"], hparams["embedding_model"])
