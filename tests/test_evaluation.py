"""The tables: classification, limited supervision, robustness, and what is made of many runs."""

import json
from pathlib import Path

import numpy as np
import paper_table
import pytest
import torch
from torch.nn import functional as F

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation.classification import classify, classify_with_few
from cochlea_sb.evaluation.report import halves
from cochlea_sb.evaluation.robustness import STRENGTHS, deform, robustness


def clusters(n_each, n_classes=4, size=8, spread=0.1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.arange(n_classes).repeat(n_each)
    vectors = torch.eye(size)[numbers] + spread * torch.randn(len(numbers), size, generator=generator)
    return F.normalize(vectors, dim=1), [f"class {number}" for number in numbers]


# ---------------------------------------------------------------- classification


@pytest.mark.parametrize("hidden_size", [None, 16])
def test_classes_that_lie_apart_are_told_apart_and_shuffled_labels_are_not(hidden_size):
    (train, train_labels), (test, test_labels) = clusters(20), clusters(10, seed=1)
    right = classify(train, train_labels, test, test_labels, hidden_size=hidden_size)
    assert right["accuracy"] == 1 and right["mAP"] == pytest.approx(1)
    shuffled = np.random.default_rng(0).permutation(train_labels).tolist()
    wrong = classify(train, shuffled, test, test_labels, hidden_size=hidden_size)
    assert wrong["accuracy"] < 0.6 and wrong["mAP"] < 0.75


def test_long_vectors_give_what_a_classifier_without_the_shortcut_gives():
    from sklearn.linear_model import LogisticRegression

    (train, labels), (test, test_labels) = clusters(5, size=64, spread=0.4), clusters(20, size=64, spread=0.4, seed=1)
    plain = LogisticRegression(C=0.1, max_iter=1000).fit(8 * train.numpy(), labels)
    assert train.shape[1] > len(train)
    assert classify(train, labels, test, test_labels)["accuracy"] == plain.score(8 * test.numpy(), test_labels)


def test_more_labels_help():
    train, train_labels = clusters(40, spread=0.5)
    test, test_labels = clusters(40, spread=0.5, seed=1)
    figures = classify_with_few(train, train_labels, test, test_labels, (1, 20))
    assert 0.25 < figures[1]["accuracy"] < figures[20]["accuracy"]


def test_one_class_can_not_be_classified():
    train, _ = clusters(2)
    with pytest.raises(UserError, match="training sounds have 1 labels"):
        classify(train, ["dog"] * len(train), train, ["dog"] * len(train))


# ---------------------------------------------------------------- robustness


def loudest_hz(wav):
    spectrum = torch.fft.rfft(wav[4000:-4000] * torch.hann_window(len(wav) - 8000)).abs()
    return float(spectrum.argmax()) * 16000 / (len(wav) - 8000)


SINE = 0.3 * torch.sin(2 * torch.pi * 440 * torch.arange(32000) / 16000)


@pytest.mark.parametrize("semitones", [-6, -2, 2, 6])
def test_a_pitch_shift_moves_the_pitch_and_keeps_the_duration(semitones):
    shifted = deform(SINE, "pitch shift (semitones)", semitones)
    assert abs(len(shifted) - len(SINE)) <= 300
    assert loudest_hz(shifted) == pytest.approx(440 * 2 ** (semitones / 12), rel=0.01)


@pytest.mark.parametrize("rate", [0.6, 1.7])
def test_a_stretch_changes_the_duration_and_keeps_the_pitch(rate):
    stretched = deform(SINE, "time stretch (rate)", rate)
    assert len(stretched) == round(len(SINE) / rate)
    assert loudest_hz(stretched) == pytest.approx(440, rel=0.01)


def test_noise_and_gain_are_as_strong_as_they_say():
    noise = deform(SINE, "noise (SNR in dB)", 20, torch.Generator().manual_seed(0)) - SINE
    assert float(10 * torch.log10(SINE.square().mean() / noise.square().mean())) == pytest.approx(20, abs=0.3)
    torch.testing.assert_close(deform(SINE, "gain (dB)", -20), SINE / 10)


@pytest.mark.parametrize("kind", STRENGTHS)
@pytest.mark.parametrize("n_samples", [1, 20, 700])
def test_very_short_sounds_can_be_deformed(kind, n_samples):
    for strength in STRENGTHS[kind]:
        assert torch.isfinite(deform(torch.ones(n_samples), kind, strength)).all()


def test_recall_counts_originals_and_leaves_out_takes_of_the_same_source():
    def recall(originals, sources=None, strength=10):
        gain = {"gain (dB)": (strength,)}
        encoders = {"model": lambda frames: F.normalize(frames, dim=-1)[:, None]}  # gain-proof
        found = robustness(lambda wav: wav, encoders, wavs, [1, 2], {"model": originals}, sources, strengths=gain)
        return found["recall@1"]["model"]["gain (dB)"][strength]

    wavs = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]
    assert recall(torch.tensor([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0]])) == 1
    twins = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert recall(twins, strength=-10) == 0.5
    assert recall(twins, ["a", "a", None]) == 1


# ---------------------------------------------------------------- tables of many runs


def report(m_ap, accuracy, baseline=0.4):
    def row(value, right):
        probe = {"accuracy": right, "mAP": right}
        return {"mAP": value, "P@1": value}, {"logistic regression": probe, "hidden layer": probe}

    rows = {"log-mel": row(baseline, 0.5), "model": row(m_ap, accuracy)}
    few = {name: {"2": {"accuracy": both[1]["hidden layer"]["accuracy"] / 2}} for name, both in rows.items()}
    return {
        "retrieval": {name: both[0] for name, both in rows.items()},
        "classification": {name: both[1] for name, both in rows.items()},
        "few labels": few,
        "recall@1": {name: {"gain (dB)": {"-10": 0.5, "0": 1.0}} for name in rows},
        "recall@10": {name: {"gain (dB)": {"-10": 0.7, "0": 1.0}} for name in rows},
    }


@pytest.fixture
def runs(tmp_path):
    def write(recipe, fold, seed, name, content):
        folder = tmp_path / recipe / f"fold{fold}-seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
        (folder / "done").touch()

    for fold in (1, 2):
        for seed in (1, 2):
            write("joint", fold, seed, "evaluation.json", report(0.5 + 0.1 * fold, 0.7))
        write("supervised", fold, 1, "evaluation.json", report(0.8, 0.9))
        write("supervised_triplets", fold, 1, "evaluation.json", report(0.7, 0.8))
        write("supervised-2-labels", fold, 1, "history.json", [{"accuracy": 0.0}, {"accuracy": 0.2}])
    return tmp_path


def test_the_table_says_what_is_recovered_of_the_best_supervised(runs):
    summary = paper_table.summarise(
        runs, ["joint", "absent", "supervised", "supervised_triplets"], [1, 2], [1, 2], few=[2]
    )
    rows = summary["recipes"]
    assert list(rows) == ["log-mel", "joint", "supervised", "supervised_triplets"]
    assert rows["joint"]["mAP"][0] == pytest.approx(0.65) and rows["joint"]["runs"] == 4
    assert rows["joint"]["recovered, retrieval"] == pytest.approx([0.625, 0.5, 0.75])
    assert rows["joint"]["recovered, classification"] == pytest.approx([0.5] * 3)
    assert "recovered, retrieval" not in rows["supervised"]
    few = summary["few labels"]
    assert few["supervised network"]["2"][0] == pytest.approx(0.2) and few["joint"]["2"][0] == pytest.approx(0.35)
    assert "supervised" not in few and set(summary["recall@10"]) >= {"log-mel", "joint"}


def test_the_tables_are_written_and_readable(runs):
    summary = paper_table.summarise(runs, ["joint", "supervised"], [1, 2], [1, 2], few=[2])
    paper_table.write_tables(summary, runs, "What was measured.")
    text = (runs / "table.md").read_text()
    assert "| joint | 0.650 ± 0.635 |" in text and "62% (50% to 75%)" in text
    assert json.loads((runs / "table.json").read_text())["recipes"]["log-mel"]["runs"] == 6
    for name in ("retrieval", "few_labels", "robustness"):
        assert (runs / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_only_finished_runs_of_the_folds_that_all_recipes_have_count(runs):
    (runs / "joint" / "fold2-seed2" / "done").unlink()
    summary = paper_table.summarise(runs, ["joint", "supervised"], [1, 2, 3], [1, 2], few=[2])
    assert summary["folds"] == [1, 2] and summary["recipes"]["joint"]["runs"] == 3
    (runs / "supervised" / "fold2-seed1" / "done").unlink()
    summary = paper_table.summarise(runs, ["joint", "supervised"], [1, 2], [1, 2], few=[2])
    assert summary["folds"] == [1] and summary["recipes"]["joint"]["mAP"] == (pytest.approx(0.6), None)
    assert summary["recipes"]["joint"]["recovered, retrieval"] == (pytest.approx(0.5), None, None)
    paper_table.write_tables(summary, runs, "One fold.")
    assert "| joint | 0.600 |" in (runs / "table.md").read_text() and "NaN" not in (runs / "table.json").read_text()


def test_a_table_without_labels_has_what_can_be_measured(tmp_path):
    run = tmp_path / "joint" / "fold0-seed1"
    run.mkdir(parents=True)
    (run / "evaluation.json").write_text(json.dumps({"recall@1": report(0, 0)["recall@1"]}))
    (run / "done").touch()
    summary = paper_table.summarise(tmp_path, ["joint"], [0], [1], few=[2])
    paper_table.write_tables(summary, tmp_path, "Recordings.")
    text = (tmp_path / "table.md").read_text()
    assert "| recall@1, gain (dB) | -10 | 0 |" in text and "| joint | 0.500 | 1.000 |" in text and "mAP" not in text


def test_recipes_of_other_frames_have_no_log_mel_baseline(tmp_path):
    for recipe, baseline in (("words_mfcc", "frames"), ("joint", "log-mel")):
        run = tmp_path / recipe / "fold1-seed1"
        run.mkdir(parents=True)
        (run / "evaluation.json").write_text(json.dumps(report(0.6, 0.7)).replace("log-mel", baseline))
        (run / "done").touch()
    summary = paper_table.summarise(tmp_path, ["words_mfcc", "joint"], [1], [1], few=[2])
    assert summary["recipes"]["log-mel"]["runs"] == 1 and set(summary["recall@1"]) == {"words_mfcc", "log-mel", "joint"}
    alone = paper_table.summarise(tmp_path, ["words_mfcc"], [1], [1], few=[2])
    assert list(alone["recipes"]) == list(alone["recall@1"]) == ["words_mfcc"]
    assert "| words_mfcc | 0.600 |" in paper_table.markdown(alone)


def test_halves_part_every_sound():
    bank = FrameBank(torch.arange(9.0)[:, None].half(), torch.tensor([5, 1, 3]), -1.0)
    first, second = halves(bank)
    assert first.lengths.tolist() == [2, 1, 1] and second.lengths.tolist() == [3, 1, 2]
    assert first.frames[:, 0].tolist() == [0, 1, 5, 6] and second.frames[:, 0].tolist() == [2, 3, 4, 5, 7, 8]


def test_nothing_is_recovered_where_supervision_does_not_help():
    assert paper_table.recovered([0.6, 0.5], [0.4, 0.4], [0.3, 0.3]) == (None, None, None)


def test_no_runs_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no fold that all recipes have finished"):
        paper_table.summarise(Path(tmp_path), ["joint"], [1], [1])
