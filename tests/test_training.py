"""The Brain: a step, an interruption, several processes."""

import os
from pathlib import Path

import pytest
import ruamel.yaml
import torch
from torch.nn import functional as F

from cochlea_sb.augment.combined import Composition, OneKindPerExample
from cochlea_sb.augment.deformation import Deformation
from cochlea_sb.augment.gain import Gain
from cochlea_sb.augment.temporal_proximity import NoDraw, TemporalProximity
from cochlea_sb.encoders.cnn import ConvEncoder
from cochlea_sb.errors import UserError
from cochlea_sb.inference.audio_encoder import AudioEncoder
from cochlea_sb.inference.model_folder import CONFIG, YAML, save_model
from cochlea_sb.training import mining
from cochlea_sb.training.batch import PairBatch, deform, mixing_shift
from cochlea_sb.training.brain import EmbeddingBrain
from cochlea_sb.training.checkpoints import AtomicCheckpointer, History
from cochlea_sb.training.distributed import ALL, Share, gather_rows, own_share, summed, unwrapped
from cochlea_sb.training.losses import TripletLoss
from cochlea_sb.training.recipe import load_experiment, parse_arguments
from cochlea_sb.training.schedule import warm_up_and_cosine


def test_schedule_rises_and_falls():
    shares = [warm_up_and_cosine(step, 100, 10) for step in range(120)]
    assert shares[9] == shares[10] == 1 and shares[0] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in zip(shares[10:], shares[11:], strict=False))
    assert shares[99] < 0.001 and shares[110] == 0
    assert warm_up_and_cosine(0, 10, 0) == 1


def test_a_checkpoint_counts_only_when_all_of_it_is_there(tmp_path):
    class Dies:
        pass

    model, history = torch.nn.Linear(2, 2), History()
    checkpointer = AtomicCheckpointer(tmp_path, {"model": model, "history": history})
    history.rows.append({"epoch": 1, "mAP": 0.5})
    checkpointer.save_checkpoint(meta={"epoch": 1})
    with torch.no_grad():
        model.weight.zero_()
    history.rows.append({"epoch": 2})

    def dies(obj, path):
        raise KeyboardInterrupt  # as a kill would, between the files of a checkpoint

    checkpointer.add_recoverable("dies", Dies(), custom_save_hook=dies)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint(meta={"epoch": 2})
    found = AtomicCheckpointer(tmp_path, {"model": model, "history": history}).recover_if_possible()
    assert found.meta["epoch"] == 1 and history.rows == [{"epoch": 1, "mAP": 0.5}]
    assert float(model.weight.detach().abs().sum()) > 0


def test_arguments_keep_awkward_paths_whole(tmp_path):
    folder = tmp_path / "my = sounds # 1"
    folder.mkdir()
    argv = ["hparams/cnn.yaml", "--data_folder", str(folder), "--device", "cpu", "--lr=0.5", "--valid_folds", "[1, 2]"]
    hparams_file, run_opts, overrides = parse_arguments([*argv, "--debug"])
    assert hparams_file == "hparams/cnn.yaml" and run_opts.device == "cpu" and run_opts.debug
    assert overrides == {"data_folder": str(folder), "lr": 0.5, "valid_folds": [1, 2]}
    hparams, text = load_experiment(hparams_file, overrides)
    assert hparams["data_folder"] == str(folder) == ruamel.yaml.YAML().load(text)["data_folder"]


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["nothing.yaml"], "'nothing.yaml' is not a file"),
        (["hparams/cnn.yaml", "--lr"], "--lr has no value"),
        (["hparams/cnn.yaml", "--lr", "1", "2"], "'2' follows the value of --lr"),
    ],
)
def test_arguments_that_make_no_sense(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_arguments(argv)


def test_a_yaml_says_only_what_differs_from_its_base(tmp_path):
    (tmp_path / "first.yaml").write_text(f"base: {os.path.abspath('hparams/cnn.yaml')}\nlr: 0.5\nmargin: 0.7\n")
    (tmp_path / "second.yaml").write_text(
        "base: first.yaml\nseed: 3\nhead: !new:torch.nn.Identity\nloss: !new:cochlea_sb.training.losses.TripletLoss\n"
        "    margin: !ref <margin>\n"
    )
    hparams, text = load_experiment(str(tmp_path / "second.yaml"), {"margin": 0.8})
    assert hparams["lr"] == 0.5 and hparams["seed"] == 3 and hparams["loss"].margin == 0.8
    assert hparams["output_folder"] == "results/cnn/3" and not list(hparams["head"].parameters())
    assert "base" not in ruamel.yaml.YAML().load(text)
    (tmp_path / "loop.yaml").write_text("base: loop.yaml\n")
    (tmp_path / "lost.yaml").write_text("base: nowhere.yaml\n")
    (tmp_path / "list.yaml").write_text("[1]\n")
    for name in ("loop", "lost"):
        with pytest.raises(UserError, match="is not there or is based on itself"):
            load_experiment(str(tmp_path / f"{name}.yaml"), {})
    with pytest.raises(UserError, match="list.yaml' holds no keys"):
        load_experiment(str(tmp_path / "list.yaml"), {})


@pytest.mark.parametrize("name", ["2024", "007", "1e3", "[a]", "null", "true", "(1+2)", "~", "a: b", "!x", "#a", "*a"])
def test_options_that_name_files_are_text(name):
    _, _, overrides = parse_arguments(["hparams/cnn.yaml", "--data_folder", name, f"--output_folder={name}"])
    hparams, _ = load_experiment("hparams/cnn.yaml", overrides)
    assert hparams["data_folder"] == hparams["output_folder"] == name and hparams["save_folder"] == f"{name}/save"
    _, _, overrides = parse_arguments(["hparams/cnn.yaml", "--data_folder", name, "other", "--lr", "0.5"])
    assert load_experiment("hparams/cnn.yaml", overrides)[0]["data_folder"] == [name, "other"]


@pytest.mark.parametrize(
    "option",
    ["--seed=-5", "--embedding_size=0", "--embedding_size=-3", "--number_of_epochs=-1", "--steps_per_epoch=0"]
    + ["--lr=-1", "--weight_decay=-0.1", "--warm_up_steps=-1", "--crop_frames=0", "--max_seconds=-1", "--num_proc=0"],
)
def test_numbers_out_of_range_are_one_sentence(option):
    _, _, overrides = parse_arguments(["hparams/cnn.yaml", option])
    with pytest.raises(UserError, match=f"{option.replace('=', ' is ')}: expected at least"):
        load_experiment("hparams/cnn.yaml", overrides)


@pytest.mark.parametrize(
    "option, sentence",
    [
        ("--lr=.nan", "--lr is nan: expected at least 0"),
        ("--num_proc=all", "--num_proc is 'all': expected a whole number, or null"),
        ("--labels_per_class=2.5", "--labels_per_class is 2.5: expected a whole number, or null"),
        ("--labels_per_class=true", "--labels_per_class is True: expected a whole number, or null"),
    ],
)
def test_options_that_are_no_such_number(option, sentence):
    _, _, overrides = parse_arguments(["hparams/cnn.yaml", option])
    with pytest.raises(UserError, match=sentence):
        load_experiment("hparams/cnn.yaml", overrides)


@pytest.mark.parametrize("option", ["--num_proc=null", "--num_proc=2", "--labels_per_class=1", "--lr=0.01"])
def test_options_within_their_range(option):
    _, _, overrides = parse_arguments(["hparams/cnn.yaml", option])
    hparams, _ = load_experiment("hparams/cnn.yaml", overrides)
    assert {key: hparams[key] for key in overrides} == overrides


@pytest.mark.parametrize("recipe", sorted({path.name for path in Path("hparams").glob("*.yaml")} - {"corpus.yaml"}))
def test_every_recipe_builds_a_model_that_inference_knows(recipe, tmp_path):
    hparams, _ = load_experiment(f"hparams/{recipe}", {"output_folder": str(tmp_path)})
    save_model(tmp_path, hparams["compute_features"], hparams["embedding_model"])
    encoder = AudioEncoder.from_hparams(str(tmp_path))
    assert encoder.encode_batch(torch.randn(1, 16000)).shape == (1, 1, encoder.embedding_size)


def test_a_model_folder_holds_only_what_inference_needs(tmp_path):
    hparams, _ = load_experiment("hparams/cnn.yaml", {"embedding_size": 64})
    save_model(tmp_path, hparams["compute_features"], hparams["embedding_model"])
    config, yaml = ((tmp_path / name).read_text() for name in (CONFIG, YAML))
    assert '"embedding_size": 64' in config and "embedding_size: 64" in yaml and "Pretrainer" in yaml
    for word in ("deformation", "data_folder", "batch_size", "optim", "apply", "results"):
        assert word not in config + yaml


WORKER = """
import sys
import torch
from torch.nn import functional as F
from cochlea_sb.training import mining
from cochlea_sb.training.distributed import gather_rows, own_share, wrapped
from cochlea_sb.training.losses import TripletLoss

rank, world, folder = int(sys.argv[1]), 2, sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
data = torch.load(f"{folder}/data.pt")
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
model.load_state_dict(data["state"])
model = wrapped(model)
embeddings = F.normalize(model(data["inputs"][own_share().rows]), dim=1)
assert len(embeddings) == 12
embeddings = gather_rows(embeddings, 24)
distances = mining.squared_euclidean(embeddings, embeddings)
negatives = mining.hardest(distances, data["positives"], mining.disjoint(data["sounds"], data["sounds"]))
loss = TripletLoss(1.0)(distances, data["positives"], negatives)
loss.backward()
gradients = [parameter.grad for parameter in model.parameters()]
torch.save([loss.detach(), negatives.columns, gradients, list(model.buffers())], f"{folder}/{rank}.pt")
"""


def test_two_processes_give_the_loss_and_the_gradients_of_one(script, tmp_path):
    """Negatives come from both processes (gloo), and so do the mean and the variance of batch normalisation."""
    torch.manual_seed(0)
    model, inputs = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)), torch.randn(24, 8)
    sounds, positives = torch.arange(12).repeat(2)[:, None].expand(-1, 2), torch.arange(24).roll(12)
    data = {"inputs": inputs, "state": model.state_dict(), "sounds": sounds, "positives": positives}
    torch.save(data, tmp_path / "data.pt")
    workers = [script.start("-c", WORKER, rank, tmp_path) for rank in range(2)]
    assert [worker.finish(timeout=120).returncode for worker in workers] == [0, 0]

    embeddings = F.normalize(model(inputs), dim=1)
    distances = mining.squared_euclidean(embeddings, embeddings)
    negatives = mining.hardest(distances, positives, mining.disjoint(sounds, sounds))
    loss = TripletLoss(1.0)(distances, positives, negatives)
    loss.backward()
    assert (negatives.columns % 2 != torch.arange(24) % 2).any()  # rows 0, 2, ... are those of the first process
    expected = [loss.detach(), negatives.columns, [part.grad for part in model.parameters()], list(model.buffers())]
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected, atol=1e-5, rtol=1e-4)


def test_one_process_has_all_rows():
    rows = torch.randn(4, 8)
    assert own_share() == ALL and gather_rows(rows, 4) is rows and summed(rows) is rows


# ---------------------------------------------------------------- a step


class Others(Deformation):
    """Gives the sounds to be mixed in, so that a test sees them."""

    def draw(self, energies, generator=None):
        return NoDraw()

    def deform(self, energies, draw, others=None):
        return others.clone()


def pair_batch(n=6, seed=0):
    """Crops that tell their own pair: log energy 1, 2, ... for anchors and positives alike."""
    crops = torch.arange(1.0, n + 1)[:, None, None].expand(n, 144, 4).half()
    return PairBatch(crops, crops.clone(), torch.arange(n), seed)


@pytest.mark.parametrize("deform_anchors", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_every_crop_meets_a_stranger_and_its_groups_say_so(seed, deform_anchors):
    batch = pair_batch(seed=seed)
    before = batch.crops
    deformed = deform(batch, Others(), 1e-8, deform_anchors)
    assert deformed.crops.shape == (12, 144, 4) and deformed.crops.dtype == torch.float32
    assert torch.equal(batch.crops, before)
    heard = deformed.crops[:, 0, 0].round().long() - 1
    assert torch.equal(deformed.groups[:, 0], batch.groups.repeat(2)) and torch.equal(deformed.groups[:, 1], heard)
    first = 0 if deform_anchors else 6
    assert (deformed.groups[first:, 0] != deformed.groups[first:, 1]).all()
    assert (deformed.groups[:first, 0] == deformed.groups[:first, 1]).all()
    assert deformed.positive_of.tolist() == [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]


def test_a_batch_of_one_pair_and_the_same_seed():
    assert mixing_shift(1, 5) == 1
    one, same, other = (deform(pair_batch(seed=seed), Gain(), 1e-8).crops for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("recipe", ["cnn", "joint", "zounds", "infonce"])
@pytest.mark.parametrize("deform_anchors", [True, False])
def test_shares_of_a_batch_are_deformed_as_the_whole_batch(recipe, deform_anchors):
    hparams, _ = load_experiment(f"hparams/{recipe}.yaml", {})
    crops = torch.randn(2, 12, 144, 64, generator=torch.Generator().manual_seed(0)).half()
    batch = PairBatch(*crops, torch.arange(12), 5)
    whole = deform(batch, hparams["deformation"], 1e-8, deform_anchors)
    for count in (2, 3):
        for number in range(count):
            part = deform(batch, hparams["deformation"], 1e-8, deform_anchors, Share(number, count))
            torch.testing.assert_close(part.crops, whole.crops[number::count])
            assert torch.equal(part.groups, whole.groups)


def brain_for(**hparams):
    """A Brain that trains nothing: its encoder gives what it is given."""
    experiment, _ = load_experiment("hparams/joint.yaml", {})
    modules = {"embedding_model": torch.nn.Identity(), "head": torch.nn.Identity()}
    return EmbeddingBrain(modules, hparams=experiment | hparams, run_opts={"device": "cpu"})


def test_the_objective_is_the_loss_of_the_mined_negatives_and_counts_them():
    brain = brain_for()
    deformed = deform(pair_batch(), Gain(), 1e-8)
    outputs = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = brain.objective(outputs, deformed)
    unit = F.normalize(outputs, dim=1)
    distances, allowed = mining.squared_euclidean(unit, unit), mining.disjoint(deformed.groups, deformed.groups)
    negatives = mining.semi_hard(distances, (torch.arange(12) + 6) % 12, allowed)
    torch.testing.assert_close(loss, TripletLoss(0.1)(distances, (torch.arange(12) + 6) % 12, negatives))
    loss.backward()
    assert outputs.grad.abs().sum() > 0
    n_semi_hard = int(negatives.semi_hard.sum())
    assert brain.tally.shares() == pytest.approx({"semi-hard": n_semi_hard / 12, "fallback": 1 - n_semi_hard / 12})
    brain.modules.eval()
    brain.objective(outputs, deformed)
    assert brain.tally.shares() == {}


def test_random_negatives_are_the_same_when_a_step_is_repeated():
    brain, batch = brain_for(miner=mining.random), pair_batch(n=32)
    outputs, deformed = torch.randn(64, 8), deform(pair_batch(n=32), Gain(), 1e-8)
    losses = [float(brain.objective(outputs, deformed, batch.generator(1))) for _ in range(2)]
    assert losses[0] == losses[1] != float(brain.objective(outputs, deformed, batch._replace(seed=9).generator(1)))


def test_proximity_of_some_pairs_wants_clean_anchors():
    some = OneKindPerExample([Gain(), TemporalProximity()])
    with pytest.raises(UserError, match="set deform_anchors to False"):
        brain_for(deformation=some, deform_anchors=True)
    brain_for(deformation=some, deform_anchors=False)
    brain_for(deformation=Composition([Gain(), TemporalProximity()]), deform_anchors=True)


def test_a_compiled_encoder_is_saved_as_itself():
    encoder = ConvEncoder(silence=0.0, channels=[4, 8], embedding_size=16)
    compiled = torch.compile(encoder, backend="eager")
    assert unwrapped(compiled) is encoder and unwrapped(encoder) is encoder
