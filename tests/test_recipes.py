"""The recipes as their users run them: the files they leave, how they resume, how they answer a mistake."""

import json
import logging
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file

from cochlea_sb.audio import read_audio
from cochlea_sb.synthetic.library import write_library
from cochlea_sb.training.recipe import parse_arguments

ROOT = Path(__file__).parent.parent
PRECISION = ["--precision", "bf16", "--eval_precision", "bf16"]
SHORT = ["--batch_size", "16", "--number_of_epochs", "2", "--steps_per_epoch", "6", "--num_proc", "1"]
SHORT += ["--n_sources", "12"]
SMALL = [*SHORT, "--channels", "[16, 32, 64]"]
SOUNDS = 500  # of the library: 20 of each class, the fewest that give each fold two sources of a class


def training(folder, output_folder, *arguments):
    """The command that trains the CNN."""
    folders = "--data_folder", folder, "--output_folder", output_folder
    return "recipes/train.py", "hparams/cnn.yaml", *folders, *SMALL, *arguments


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A labelled folder with folds, and in it a file that holds no sound."""
    folder = tmp_path_factory.mktemp("library")
    write_library(folder, SOUNDS // 25)
    (folder / "broken.wav").write_bytes(b"RIFF....WAVE")
    return folder


@pytest.fixture(scope="module")
def results(script, library, tmp_path_factory):
    """A results folder, and the output of the run."""
    folder = tmp_path_factory.mktemp("results") / "run"
    return folder, script(*training(library, folder)).stdout


def test_training_leaves_what_it_should(results):
    folder, said = results
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        "config.json",
        "model.safetensors",
        "hyperparams.yaml",
        "train.yaml",
        "train.py",
        "train_log.txt",
        "log.txt",
        "env.log",
        "loss.png",
        "embedding_map.png",
        "skipped.csv",
        "save",
    }
    log = (folder / "train_log.txt").read_text().splitlines()
    assert len(log) == 2 and "valid mAP" in log[0] and "valid recall@1" in log[1]
    assert f"Skipped 1 of {SOUNDS + 1} files" in said and "broken.wav" in said
    assert "broken.wav" in (folder / "skipped.csv").read_text()
    assert (folder / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_what_is_held_out_shares_no_source_with_the_rest(results, library):
    from cochlea_sb.data.corpus import hold_out, load_corpus
    from cochlea_sb.features import LogMel

    frames, _ = load_corpus(LogMel(), library)
    train_rows, held_out = hold_out(frames, [5])
    assert {frames["fold"][row] for row in held_out} == {"5"}
    assert not {frames["source"][row] for row in train_rows} & {frames["source"][row] for row in held_out}


def test_evaluation_prints_and_saves_the_table(script, results, library):
    folder, _ = results
    arguments = ["hparams/cnn.yaml", "--data_folder", library, "--output_folder", folder]
    arguments += ["--robustness", "[noise, gain, excerpt]"]  # all kinds: the page docs/compare.md
    out = script("recipes/evaluate.py", *arguments).stdout
    report = json.loads((folder / "evaluation.json").read_text())
    retrieval = report["retrieval"]
    assert set(retrieval) == {"random", "log-mel", "model"}
    assert f"| model | {retrieval['model']['mAP']:.3f} |" in out
    assert out.strip().endswith((folder / "evaluation.md").read_text().strip().splitlines()[-1])
    assert retrieval["random"]["mAP"] < retrieval["log-mel"]["mAP"]
    for probe in ("logistic regression", "hidden layer"):
        assert report["classification"]["log-mel"][probe]["accuracy"] > 0.2  # chance: 0.04
    few = report["few labels"]["model"]
    assert list(few) == ["1", "2", "5", "10", "20"] and few["1"]["accuracy"] < few["10"]["accuracy"]
    for name in ("log-mel", "model"):
        robust, among_ten = report["recall@1"][name], report["recall@10"][name]
        assert robust["gain (dB)"]["0"] == 1  # nothing changed
        assert robust["noise (SNR in dB)"]["40"] > robust["noise (SNR in dB)"]["0"]
        assert among_ten["excerpt"]["the other half"] >= robust["excerpt"]["the other half"] > 0.01
    for name in ("few_labels", "robustness"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("recipe, size", [("log_mel", 6144), ("bag_of_audio_words", 1000), ("seq2seq", 128)])
def test_every_kind_of_encoder_is_trained_loaded_indexed_and_searched(script, library, tmp_path, recipe, size):
    from cochlea_sb import AudioEncoder

    model = tmp_path / "model"
    few = SHORT if recipe == "seq2seq" else []
    script("recipes/train.py", f"hparams/{recipe}.yaml", "--data_folder", library, "--output_folder", model, *few)
    assert (model / "embedding_map.png").is_file()
    assert json.loads((model / "history.json").read_text())[-1]["mAP"] > 0.05
    assert (model / "reconstruction.png").is_file() == (recipe == "seq2seq")
    query = library / "bell" / "bell_000.wav"
    ours = AudioEncoder.from_hparams(model, run_opts={"device": "cpu"}).encode_file(query)
    assert ours.shape == (size,)
    elsewhere = (
        "import sys, torch; from cochlea_sb import AudioEncoder; "
        "torch.save(AudioEncoder.from_hparams(sys.argv[1]).encode_file(sys.argv[2]), sys.argv[3])"
    )
    script("-c", elsewhere, model, query, tmp_path / "elsewhere.pt")
    assert torch.equal(torch.load(tmp_path / "elsewhere.pt"), ours)

    folders = library / "bell", library / "kick"
    script("cochlea", "index", *folders, "--library", tmp_path / "all.library", "--model", model)
    found = script("cochlea", "search", tmp_path / "all.library", query, "--json").stdout
    assert Path(json.loads(found)[0]["path"]).parent.name == "bell"


def test_training_with_labels(script, capsys, monkeypatch, library, tmp_path):
    arguments = ["hparams/supervised.yaml", "--data_folder", library, "--output_folder", tmp_path / "run", *SMALL]
    code, err = said_to(capsys, monkeypatch, "train", *arguments)
    assert code == 2
    assert "number_of_classes is 10 and the corpus has 25 labels: add --number_of_classes 25" in err
    script("recipes/train.py", *arguments, "--labels_per_class", 2, "--number_of_classes", 25)
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2] and 0 <= history[-1]["accuracy"] <= 1


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        (["--folds", 7], "has no fold 7: it has 1, 2, 3, 4, 5."),
        (["--recipes", "nose"], "There is no recipe 'nose': expected some of bag_of_audio_words, "),
        (["--robustness", "[nose]"], "--robustness names 'nose': expected some of pitch, time, noise, gain, excerpt."),
        (["--number_of_epoch", 3], "No recipe has a key 'number_of_epoch': did you mean 'number_of_epochs'?"),
    ],
)
def test_a_mistake_is_told_before_the_first_of_many_runs(capsys, monkeypatch, library, tmp_path, wrong, sentence):
    arguments = [library, "--output_folder", tmp_path, "--recipes", "noise", "--folds", 5, *SMALL, *wrong]
    code, err = said_to(capsys, monkeypatch, "reproduce", *arguments)
    assert code == 2 and sentence in err and not list(tmp_path.iterdir())


def test_the_table_of_many_runs_goes_on_where_it_was(script, library, tmp_path):
    # This recipe starts a new Python for each run, so it also shows that train.py and evaluate.py start in one.
    arguments = [library, "--output_folder", tmp_path, "--recipes", "noise", "supervised", "--folds", 5, "--seeds", 1]
    arguments += ["--few", 3, "--jobs", 2, *SMALL, "--number_of_classes", 25]
    out = script("recipes/reproduce.py", *arguments, timeout=400).stdout
    assert "| noise | 0." in out and "| supervised network | 0." in out
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["recipes"]["supervised"]["runs"] == 1 and table["folds"] == [5]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/fold5-seed1/done")}
    assert len(before) == 3
    script("recipes/reproduce.py", *arguments)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/fold5-seed1/done")}


HELP = """
import os, runpy, sys
import torch  # as each of them does
for script in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv, sys.path[0] = [script, "--help"], os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
    if os.wait()[1]:
        sys.exit(f"{script} failed")
"""


def test_a_recipe_starts_in_a_new_python():
    """Others: train and evaluate in the test above, embed in tests/test_cli.py, listen in tests/test_listen.py."""
    names = ["push_to_hub", "reproduce"]
    command = [sys.executable, "-c", HELP, *(str(ROOT / "recipes" / f"{name}.py") for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(f"usage: {name}.py" in done.stdout for name in names)


def test_plain_speechbrain_loads_the_results_folder(results, library, tmp_path):
    from speechbrain.inference.classifiers import EncoderClassifier

    from cochlea_sb import AudioEncoder

    folder = str(results[0])
    wav = torch.from_numpy(read_audio(library / "bell" / "bell_000.wav"))
    plain = EncoderClassifier.from_hparams(folder, savedir=str(tmp_path), run_opts={"device": "cpu"})
    ours = AudioEncoder.from_hparams(folder, run_opts={"device": "cpu"})
    assert torch.equal(plain.encode_batch(wav), ours.encode_batch(wav))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(script, results, library, tmp_path, sent):
    folder = tmp_path / "run"
    command = training(library, folder, "--ckpt_interval_steps", "2")
    running = script.start(*command)
    deadline = time.monotonic() + 120
    while not list(folder.glob("save/CKPT*/CKPT.yaml")) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(sent)
    done = running.finish()
    if sent == signal.SIGINT:
        assert done.returncode == 130 and done.stderr.strip().endswith("Run the same command again to continue.")
    else:
        assert done.returncode == -signal.SIGKILL
    assert not (folder / "train_log.txt").exists() or len((folder / "train_log.txt").read_text().splitlines()) < 2

    assert "Loading a checkpoint" in script(*command).stdout
    whole, resumed = (load_file(path / "model.safetensors") for path in (results[0], folder))
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], atol=1e-5, rtol=1e-4)
    last = [(path / "train_log.txt").read_text().splitlines()[-1].split(" - ")[0] for path in (results[0], folder)]
    assert last[0] == last[1]


class TwoProcesses:
    """`torchrun` of the training of a folder in two processes on the CPU, with checkpoints every second step."""

    def __init__(self, library, folder, *arguments):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += map(str, training(library, folder, "--device", "cpu", "--distributed_backend", "gloo"))
        command += ["--ckpt_interval_steps", "2", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.torchrun = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **streams)

    def workers(self):
        number = self.torchrun.pid
        return [int(child) for child in Path(f"/proc/{number}/task/{number}/children").read_text().split()]

    def finish(self):
        out, err = self.torchrun.communicate(timeout=180)
        return self.torchrun.returncode, out, err


def test_two_processes_train_as_one_does_and_a_killed_one_ends_the_run(script, library, tmp_path):
    """The frames of the two are on the disk, which changes nothing, and each has half of them.

    The learning rate is low: training amplifies the rounding of float32, and the more the larger its steps are.
    """
    arguments = ["--number_of_epochs", "1", "--steps_per_epoch", "12", "--lr", "0.0001"]
    script(*training(library, tmp_path / "one", *arguments))
    folder = tmp_path / "two"
    arguments += ["--memory_gb", "0"]
    running = TwoProcesses(library, folder, *arguments)  # new processes: torchrun starts them
    deadline = time.monotonic() + 120
    while not list(folder.glob("save/CKPT*/CKPT.yaml")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.workers()[1], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = running.finish()
    assert code == 1 and time.monotonic() - killed < 30
    assert "Signal 9 (SIGKILL)" in err and "a defect of cochlea_sb" not in err  # torchrun ends process 0 too

    code, out, err = TwoProcesses(library, folder, *arguments).finish()
    assert code == 0, err
    assert (
        "Loading a checkpoint" in out + err
        and "The frames are read from the disk: FrameBank(" in out
        and out.count("The model, after 1 epochs, is in") == 1
    )
    one, two = (json.loads((path / "history.json").read_text()) for path in (tmp_path / "one", folder))
    assert len(one) == len(two) == 1 and one[0] == pytest.approx(two[0], rel=1e-4)
    assert not any(name.startswith("module.") for name in load_file(folder / "model.safetensors"))

    out = script(*training(library, folder, *arguments, "--number_of_epochs", 2)).stdout
    assert "Loading a checkpoint" in out and "after 2 epochs" in out


def test_a_finished_run_goes_on_with_more_epochs_in_mixed_precision(script, results, library, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(results[0], folder)
    before = load_file(folder / "model.safetensors")["project.0.weight"]
    out = script(*training(library, folder, "--number_of_epochs", 3, *PRECISION)).stdout
    assert "after 3 epochs" in out
    assert len((folder / "train_log.txt").read_text().splitlines()) == 3
    assert not torch.equal(load_file(folder / "model.safetensors")["project.0.weight"], before)


def said_to(capsys, monkeypatch, name, *arguments):
    """Exit status and stderr of a recipe run in this process."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those of the test before write to its closed stdout
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "recipes" / f"{name}.py"), run_name="__main__")
    return end.value.code, capsys.readouterr().err


@pytest.fixture
def mistakes(tmp_path):
    """Folders to get wrong."""
    for name in ("empty", "texts", "single"):
        (tmp_path / name).mkdir()
    (tmp_path / "texts" / "a.txt").write_text("nothing")
    soundfile.write(tmp_path / "single" / "a.wav", torch.randn(16000).numpy(), 16000)
    return tmp_path


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--data_folder", "{}/empty"], "holds no files"),
        (["--data_folder", "{}/texts"], "None of the 1 files could be read as audio"),
        (["--data_folder", "{}/nowhere"], "which is not a folder"),
        (["--data_folder", "{}/single"], "holds one sound"),
        (
            ["--sounds_per_class", "4", "--batch_size", "5000", "--n_sources", "0"],
            "batch_size is 5000 and the corpus has",
        ),
        (["--batch_sise", "5"], "has no key 'batch_sise': did you mean 'batch_size'?"),
        (["--device", "cuda:63"], "device is 'cuda:63', which can't be used here"),
        (["--lr"], "--lr has no value"),
        (["--number_of_epochs", "1.5"], "--number_of_epochs is 1.5: expected a whole number"),
        (["--lr", "fast"], "--lr is 'fast': expected a number"),
        (["--valid_folds", "5"], "--valid_folds is 5: expected a list such as [5]"),
        (["--folder_labels", "maybe"], "--folder_labels is 'maybe': expected True or False"),
        (["--dataset", "nobody/nothing"], "could not be loaded"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_status_2(capsys, monkeypatch, mistakes, arguments, sentence):
    arguments = [argument.format(mistakes) for argument in arguments]
    output = ["--output_folder", mistakes / "results"]
    code, err = said_to(capsys, monkeypatch, "train", "hparams/cnn.yaml", *arguments, *output)
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 2 and len(errors) == 1 and sentence in errors[0] and "Traceback" not in err
    knew_the_corpus = "holds one sound" in sentence or "the corpus has" in sentence
    assert knew_the_corpus or not (mistakes / "results").exists()


def test_help_tells_the_keys_of_the_yaml(capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(["hparams/seq2seq.yaml", "--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and "--device" in said
    for line in ("  --data_folder", "  --batch_size 64", "  --step_frames 4", "# fraction of the sources to hold out"):
        assert line in said
    assert "!new" not in said and "--modules" not in said


def test_deformations_want_log_mel_frames(capsys, monkeypatch, tmp_path):
    yaml = tmp_path / "mine.yaml"
    yaml.write_text(f"base: {ROOT}/hparams/cnn.yaml\ncompute_features: !new:cochlea_sb.features.MFCC {{}}\n")
    code, err = said_to(capsys, monkeypatch, "train", yaml, "--output_folder", tmp_path / "results")
    assert code == 2 and "compute_features is MFCC: expected LogMel" in err


def test_no_model_and_no_labels(capsys, monkeypatch, mistakes, results):
    code, err = said_to(capsys, monkeypatch, "evaluate", "hparams/cnn.yaml", "--output_folder", mistakes / "none")
    assert code == 2 and "holds no model (config.json is missing)" in err
    unlabelled = ["--data_folder", mistakes / "single", "--output_folder", results[0], "--robustness", "[]"]
    unlabelled += ["--evaluate_all", "True"]
    code, err = said_to(capsys, monkeypatch, "evaluate", "hparams/cnn.yaml", *unlabelled)
    assert code == 2 and "have no labels" in err
    code, err = said_to(capsys, monkeypatch, "evaluate", "hparams/cnn.yaml", *unlabelled[:-2])
    assert code == 2 and "add --evaluate_all True" in err


def test_a_folder_of_another_run_is_refused(capsys, monkeypatch, results, library, mistakes):
    for changed in (["--embedding_size", "64"], ["--data_folder", mistakes / "texts"], ["--lr", "0.1"]):
        arguments = ["--data_folder", library, "--output_folder", results[0], *SMALL, *changed]
        code, err = said_to(capsys, monkeypatch, "train", "hparams/cnn.yaml", *arguments)
        assert code == 2 and "holds a run with other settings" in err and "choose another --output_folder" in err


def test_a_checkpoint_that_does_not_fit_is_refused(capsys, monkeypatch, results, library, tmp_path):
    shutil.copytree(results[0], tmp_path / "run")
    (tmp_path / "run" / "train.yaml").unlink()
    arguments = ["--data_folder", library, "--output_folder", tmp_path / "run", "--embedding_size", "64", *SMALL]
    code, err = said_to(capsys, monkeypatch, "train", "hparams/cnn.yaml", *arguments)
    assert code == 2 and "does not fit this experiment" in err and "choose another --output_folder" in err
