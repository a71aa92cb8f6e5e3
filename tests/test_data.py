"""From folders and datasets to frames, and from frames to batches of pairs."""

import csv
import os
import runpy
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from cochlea_sb.augment.combined import Composition, OneKindPerExample
from cochlea_sb.augment.gain import Gain
from cochlea_sb.augment.mixture import Mixture
from cochlea_sb.augment.temporal_proximity import TemporalProximity
from cochlea_sb.data.corpus import column, few_of_each, hold_out, load_corpus, write_problems
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.frames import compute_frames, shared_out, split_readable
from cochlea_sb.data.sounds import list_sources, load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel
from cochlea_sb.synthetic.library import synthetic_library
from cochlea_sb.training.pairs import MixedBatches, PairBatches, group_rows, in_proximity, own_pairs

fma_prepare = runpy.run_path(str(Path(__file__).parent.parent / "recipes" / "fma_prepare.py"))["main"]
UNREAD = datasets.Features(audio={"bytes": datasets.Value("binary"), "path": datasets.Value("string")})


def write_tone(path, hz=440, seconds=0.5, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate), rate)


@pytest.fixture
def folder(tmp_path):
    """A messy folder: sub-folders, odd rates, upper case, junk, a hidden file, a truncated file, names like splits."""
    write_tone(tmp_path / "a.wav", 300, 2.0)
    write_tone(tmp_path / "test" / "B.WAV", 500, 0.3, 44101)
    write_tone(tmp_path / "validation" / "deep" / "c # = d.flac", 700, 1.0, 22050)
    (tmp_path / "broken.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:30])
    (tmp_path / "notes.txt").write_text("not audio")
    write_tone(tmp_path / ".hidden" / "x.wav")
    return tmp_path


def random_bank(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(sum(lengths), 4, generator=generator).half()
    return FrameBank(frames, torch.tensor(lengths), silence=-18.0)


# ---------------------------------------------------------------- sounds


def test_a_messy_folder_is_one_split(folder):
    sounds = load_sounds(folder)
    names = [os.path.basename(row["path"]) for row in sounds["audio"]]
    assert names == ["a.wav", "broken.wav", "notes.txt", "B.WAV", "c # = d.flac"]
    assert sounds.column_names == ["audio"]
    assert load_sounds(folder, folder_labels=True)["label"][3:] == ["test", "deep"]


def test_metadata_at_any_depth_is_joined(folder):
    with open(folder / "test" / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([["file_name", "label", "fold", "source"], ["B.WAV", "NA", 2, "07"]])
    (folder / "validation" / "metadata.jsonl").write_text('{"file_name": "deep/c # = d.flac", "label": "boop"}\n')
    rows = {os.path.basename(row["audio"]["path"]): row for row in load_sounds(folder)}
    assert rows["B.WAV"] | {"audio": None} == {"audio": None, "label": "NA", "fold": "2", "source": "07"}
    assert rows["c # = d.flac"]["label"] == "boop" and rows["a.wav"]["label"] is None


def test_metadata_that_names_a_missing_file_reports_it(folder):
    (folder / "metadata.csv").write_text("file_name,label\ngone.wav,x\n")
    frames, problems = load_corpus(LogMel(), folder, num_proc=1)
    assert {os.path.basename(path) for path, _ in problems} == {"gone.wav", "broken.wav", "notes.txt"}
    assert len(frames) == 3


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("a,b\n1,2\n", "expected one called file_name"),
        ('"', "could not be read as a table"),
        ("file_name,label\n,x\n", "a row without file_name"),
    ],
)
def test_bad_metadata_is_one_sentence(folder, text, sentence):
    (folder / "metadata.csv").write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_sounds(folder)


def test_saved_dataset_and_parquet_and_column_of_another_name(tmp_path):
    library = synthetic_library(2).select(range(6))
    library.save_to_disk(tmp_path / "saved")
    (tmp_path / "shards").mkdir()
    library.rename_column("audio", "sound").to_parquet(tmp_path / "shards" / "0.parquet")
    for name in ("saved", "shards"):
        sounds = load_sounds(tmp_path / name)
        assert sounds["label"] == library["label"]
        assert sounds[0]["audio"]["bytes"] == library[0]["audio"]["bytes"]
    datasets.DatasetDict({"train": library, "test": library.select([1])}).save_to_disk(tmp_path / "both")
    assert len(load_sounds(tmp_path / "both", split="test")) == 1
    with pytest.raises(UserError, match="no split 'dev': it has test, train"):
        load_sounds(tmp_path / "both", split="dev")


def test_class_labels_are_spelt_out(tmp_path):
    library = synthetic_library(2).select(range(6))
    names = sorted(set(library["label"]))
    library.cast_column("label", datasets.ClassLabel(names=names)).save_to_disk(tmp_path / "saved")
    assert load_sounds(tmp_path / "saved")["label"] == library["label"]


def test_a_dataset_without_audio_and_a_hub_out_of_reach(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "text")
    with pytest.raises(UserError, match="no audio column: its columns are text"):
        load_sounds(tmp_path / "text")
    with pytest.raises(UserError, match="'nobody/nothing' .* could not be loaded"):
        load_sounds(dataset="nobody/nothing")
    with pytest.raises(UserError, match="one of the two"):
        load_sounds("a", "b")


def test_a_folder_without_files_and_one_without_audio(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        load_sounds(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="None of the 1 files could be read as audio; .*notes.txt: .*not audio"):
        load_corpus(LogMel(), tmp_path, num_proc=1)


def test_links_are_followed_once_and_a_circle_ends(tmp_path):
    write_tone(tmp_path / "inside" / "a.wav")
    write_tone(tmp_path / "outside" / "b.wav")
    os.symlink(tmp_path / "outside", tmp_path / "inside" / "link")
    os.symlink(tmp_path / "inside", tmp_path / "outside" / "back")
    names = [os.path.basename(row["path"]) for row in load_sounds(tmp_path / "inside")["audio"]]
    assert names == ["a.wav", "b.wav"]


# ---------------------------------------------------------------- frames


def test_frames_are_computed_once_and_again_when_a_file_changes(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    frames, problems = load_corpus(LogMel(), folder, num_proc=2)
    assert [os.path.basename(path) for path, _ in problems] == ["broken.wav", "notes.txt"]
    assert frames["n_frames"] == [200, 30, 100]
    assert frames.features["frames"].feature.dtype == "float16"
    assert frames.cache_files

    def compute(front_end):
        result = compute_frames(load_sounds(folder), front_end, num_proc=1, cache_folder=cache)
        file = result.cache_files[0]["filename"]
        return file, os.stat(file).st_ino, result["n_frames"][0]

    first = compute(LogMel())
    assert compute(LogMel()) == first  # the very file: nothing was computed
    assert compute(LogMel(n_mels=40))[0] != first[0]
    write_tone(folder / "a.wav", 300, 2.5)
    assert compute(LogMel())[2] == 250


def test_a_corpus_of_several_folders(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for number in range(5):
        write_tone(other / f"{number}.wav", 300, 0.2 + 0.1 * number)
    (other / "metadata.csv").write_text("file_name,label\n" + "".join(f"{number}.wav,tone\n" for number in range(5)))
    frames, problems = load_corpus(LogMel(), [folder, other], num_proc=2)
    assert frames["n_frames"] == [200, 30, 100, 20, 30, 40, 50, 60] and len(problems) == 2
    assert frames["label"] == [None] * 3 + ["tone"] * 5
    for row in frames:  # processes share the rows in another order
        assert len(row["frames"]) == 64 * row["n_frames"]
    assert [os.path.basename(path) for path in frames["path"][3:]] == [f"{number}.wav" for number in range(5)]
    with pytest.raises(UserError, match="expected each sound in one folder only"):
        load_corpus(LogMel(), [folder, folder / "test"])
    with pytest.raises(UserError, match="empty list"):
        load_corpus(LogMel(), [])
    with pytest.raises(UserError, match="no/such', which is not a folder"):
        load_corpus(LogMel(), [folder, "no/such"])


def test_processes_share_the_work_by_size(tmp_path):
    for number in range(20):
        write_tone(tmp_path / "many" / f"{number:02}.wav", 300, 0.1 + 0.1 * number)
    sounds = load_sounds(tmp_path / "many")
    order = shared_out(sounds, 2)
    assert sorted(order.tolist()) == list(range(20))
    halves = [sum(0.1 + 0.1 * number for number in half) for half in np.split(order, 2)]
    assert abs(halves[0] - halves[1]) < 1.1  # of 21 s; in the order of the names they are 5.5 s and 15.5 s
    assert shared_out(sounds, 1).tolist() == list(range(20))


def test_frames_equal_the_front_end_on_the_waveform(folder):
    frames, _ = load_corpus(LogMel(), folder, num_proc=1)
    wav, _ = soundfile.read(folder / "a.wav", dtype="float32")
    wanted = LogMel()(torch.from_numpy(wav)[None])[0]
    got = torch.tensor(frames[0]["frames"]).reshape(-1, 64)
    torch.testing.assert_close(got, wanted.half().float(), atol=1e-3, rtol=1e-3)


def test_nothing_readable_is_one_sentence(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match="None of the 1 files could be read as audio; the first: .*a.wav"):
        load_corpus(LogMel(), tmp_path, num_proc=1)


def test_skipped_files_are_written_down(tmp_path):
    write_problems([("a,b.wav", "broken")], tmp_path / "skipped.csv")
    assert (tmp_path / "skipped.csv").read_text().splitlines() == ["path,problem", '"a,b.wav",broken']
    write_problems([], tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()


# ---------------------------------------------------------------- holding out


def toy(**columns):
    count = len(next(iter(columns.values())))
    return datasets.Dataset.from_dict({"path": [f"{number}.wav" for number in range(count)], **columns})


def test_folds_are_held_out_where_there_are_some():
    frames = toy(fold=[1, 2, 5, 5])
    assert hold_out(frames, [5]) == ([0, 1], [2, 3])
    assert hold_out(toy(fold=["1", "5", "5"]), [5]) == ([0], [1, 2])
    assert hold_out(toy(fold=[1.0, 5.0, None, 5.0]), [5]) == ([0, 2], [1, 3])
    assert hold_out(toy(fold=["a", "test", "test"]), ["test"]) == ([0], [1, 2])


@pytest.mark.parametrize("share", [1, 2, -0.1, float("nan")])
def test_a_share_out_of_range_is_one_sentence(share):
    with pytest.raises(UserError, match="valid_share is"):
        hold_out(toy(path=["a", "b"]), share=share)


def test_a_source_is_never_on_both_sides():
    frames = toy(fold=["1", None, "5", "5", "2"], source=["z", "y", "z", "x", "w"])
    assert hold_out(frames, [5]) == ([1, 4], [2, 3])  # the take of z in fold 1 is in neither


def test_elsewhere_a_stable_share_of_the_sources_is():
    sources = [f"take {number // 3}" for number in range(900)]
    train, out = hold_out(toy(source=sources), [5], 0.1)
    assert 60 <= len(out) <= 120 and sorted(train + out) == list(range(900))
    assert not {sources[row] for row in train} & {sources[row] for row in out}
    assert hold_out(toy(source=sources[:600]), [5], 0.1)[1] == [row for row in out if row < 600]
    assert hold_out(toy(source=["a", "b", "c"]), [5], 0.1) == ([0, 1, 2], [])
    assert len(hold_out(toy(source=list(range(900))), [5], 0.1)[1]) > 40  # numbers will do
    assert len(hold_out(datasets.Dataset.from_dict({"path": ["<bytes>"] * 900}), [5], 0.1)[1]) > 40


def test_too_little_to_hold_out_and_too_much():
    assert hold_out(toy(fold=[1, 1, 5]), [5]) == ([0, 1, 2], [])
    with pytest.raises(UserError, match="All 3 sounds are in the held-out folds"):
        hold_out(toy(fold=[5, 5, 5]), [5])


def test_the_choice_does_not_hang_on_how_the_folder_is_spelt(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert (
        load_sounds(folder.name)["audio"] == load_sounds(folder)["audio"] == load_sounds(f"./{folder.name}/")["audio"]
    )


def test_rows_without_audio_are_reported_and_names_that_are_not_utf8_are_read(tmp_path, folder):
    rows = datasets.Dataset.from_dict({"audio": [None, {"bytes": None, "path": None}]}, features=UNREAD)
    frames = compute_frames(rows, LogMel(), num_proc=1, cache_folder=tmp_path / "cache")
    assert all("holds no audio" in problem for problem in frames["problem"])
    with open(os.fsencode(folder) + b"/caf\xe9.wav", "wb") as file:
        file.write((folder / "a.wav").read_bytes())
    corpus = load_corpus(LogMel(), folder, num_proc=1)
    assert not any("caf" in path for path, _ in corpus.problems)
    assert any("caf" in path for path in corpus.frames["path"])


def test_parquet_beside_audio_is_not_the_corpus(folder):
    datasets.Dataset.from_dict({"x": [1]}).to_parquet(folder / "table.parquet")
    assert len(load_sounds(folder)) == 6


def test_column_is_none_where_nothing_is_known():
    frames = toy(label=[None, None])
    assert column(frames, "label") is None and column(frames, "source") is None
    assert column(toy(label=["x", None]), "label") == ["x", None]


# ---------------------------------------------------------------- the bank


def test_crops_equal_a_naive_loop():
    bank = random_bank([5, 1, 130])
    sounds, starts = torch.tensor([0, 1, 2, 2, 0]), torch.tensor([0, 0, 7, 100, 4])
    crops = bank.crops(sounds, starts, 40)
    for crop, sound, start in zip(crops, sounds.tolist(), starts.tolist(), strict=True):
        first = sum([5, 1, 130][:sound])
        own = bank.frames[first : first + [5, 1, 130][sound]][start : start + 40]
        wanted = torch.full((40, 4), -18.0).half()
        wanted[: len(own)] = own
        assert torch.equal(crop, wanted)


def test_windows_cover_every_frame():
    bank = random_bank([1, 96, 97, 144, 145, 500])
    sounds, starts = bank.windows(96, 48)
    for sound, length in enumerate(bank.lengths.tolist()):
        mine = starts[sounds == sound].tolist()
        assert mine == list(range(0, 48 * len(mine), 48))
        assert mine[-1] + 96 >= length and (len(mine) == 1 or mine[-2] + 96 < length)


def test_frames_on_the_disk_equal_those_in_memory(folder):
    frames, _ = load_corpus(LogMel(), folder, num_proc=1)
    rows = frames.select([2, 0])
    held, mapped = (FrameBank.from_dataset(rows, LogMel(), max_bytes=limit) for limit in (None, 0))
    assert torch.equal(held.frames, mapped.frames) and held.lengths.tolist() == [100, 200]
    assert "300 frames" in repr(mapped) and len(mapped) == 2
    torch.testing.assert_close(mapped.mean(), held.frames.float().mean(0), atol=1e-2, rtol=1e-3)
    again = FrameBank.from_dataset(rows, LogMel(), max_bytes=0)  # the file is used again
    assert torch.equal(again.frames, held.frames)
    sounds, starts = torch.tensor([0, 0, 1, 1, 0, 1, 0]), torch.tensor([0, -7, 150, 40, 99, 250, -200])
    assert torch.equal(mapped.crops(sounds, starts, 96), held.crops(sounds, starts, 96))
    os.truncate(mapped.path, os.path.getsize(mapped.path) - 2)
    with pytest.raises(UserError, match="has become shorter: delete it"):
        mapped.crops(torch.tensor([1]), torch.tensor([150]), 96)


def test_lengths_that_do_not_fit():
    with pytest.raises(UserError, match="expected at least one sound"):
        FrameBank(torch.zeros(3, 4).half(), torch.tensor([2]), 0.0)


# ---------------------------------------------------------------- pairs


def batches_of(bank, batch_size=64, steps=40, **kwargs):
    batch_size = batch_size if "groups" in kwargs else min(batch_size, len(bank))
    return PairBatches(bank, batch_size, steps, **kwargs)


def located(frames):
    """A bank in which each frame tells its own number and its sound's."""
    lengths = torch.tensor(frames)
    sounds = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    numbers = torch.cat([torch.arange(length) for length in frames])
    return FrameBank(torch.stack([sounds, numbers], 1).half(), lengths, silence=-1.0)


def test_pairs_come_from_one_sound_within_reach():
    batches = batches_of(located([2000] * 64), proximity_seconds=2.0)
    distances = []
    for step in range(40):
        pairs = batches[step]
        assert pairs.anchors.shape == (64, 144, 2)
        assert torch.equal(pairs.anchors[:, 0, 0].long(), pairs.groups)
        assert torch.equal(pairs.positives[:, 0, 0].long(), pairs.groups)
        assert int(pairs.anchors[:, 95, 1].min()) >= 95  # a whole window lies within the sound
        distances.append((pairs.anchors[:, 0, 1] - pairs.positives[:, 0, 1]).abs())
    distances = torch.cat(distances)
    assert 150 < float(distances.max()) <= 200 + 48


def test_without_temporal_proximity_the_positive_is_the_same_crop():
    same = batches_of(located([2000] * 64), deformation=Gain())[0]
    assert torch.equal(same.anchors, same.positives)
    with pytest.raises(UserError, match="proximity_seconds is 0: .* leave TemporalProximity out"):
        batches_of(located([2000] * 64), proximity_seconds=0)


@pytest.mark.parametrize("place", range(4))
def test_the_pairs_that_get_temporal_proximity_are_those_with_another_crop(place):
    """Whatever the order of the kinds: what `OneKindPerExample` leaves as it is, and only that, is another crop."""
    kinds = [Mixture(0.5), Gain(), Gain()]
    kinds.insert(place, TemporalProximity())
    deformation = OneKindPerExample(kinds)
    batches = batches_of(located([2000] * 64), deformation=deformation)
    another = torch.stack([(pairs.anchors != pairs.positives).any(2).any(1) for pairs in (batches[0], batches[1])]).any(
        0
    )
    ones = torch.ones(64, 4, 2)
    deformed = (deformation(ones, ones, torch.Generator().manual_seed(0)) != ones).any(2).any(1)
    assert not (another & deformed).any() and (another | deformed).float().mean() > 0.9
    assert torch.equal(in_proximity(deformation, 64), ~deformed)


def test_a_composition_with_temporal_proximity_is_all_of_it():
    assert in_proximity(Composition([Gain(), TemporalProximity()]), 5).all()
    assert not in_proximity(Composition([Gain(), Mixture()]), 5).any()


def test_rows_are_grouped_by_sound_source_or_label():
    columns = {"label": ["b", None, "a", "b"], "source": [None, "x", None, "x"]}
    frames = datasets.Dataset.from_dict(columns)
    assert group_rows(frames, [0, 2, 3], "sound") == ([0, 2, 3], None)
    assert group_rows(frames, [0, 1, 2, 3], "label") == ([2, 0, 3], [0, 1, 1])
    assert group_rows(frames, [0, 1, 2, 3], "source") == ([1, 3, 0, 2], [0, 0, 1, 3])
    for pair_by, known in (("mood", frames), ("label", frames.remove_columns("label"))):
        with pytest.raises(UserError, match=f"pair_by is '{pair_by}': expected sound, or source or label"):
            group_rows(known, [0, 1], pair_by)


def test_pairs_by_group_are_sounds_of_one_label():
    batches = batches_of(located([100, 700, 100, 900, 400, 96]), 64, groups=[0, 0, 3, 3, 3, 4])
    sound_groups = torch.tensor([0, 0, 3, 3, 3, 4])
    for step in range(5):
        pairs = batches[step]
        anchors, positives = (crops[:, 0, 0].long() for crops in (pairs.anchors, pairs.positives))
        assert torch.equal(sound_groups[anchors], pairs.groups) and torch.equal(sound_groups[positives], pairs.groups)
        assert (anchors != positives).any()


def test_mixed_batches_hold_pairs_of_both_corpora():
    corpus, others = (
        batches_of(located([300] * 6), size, groups=groups) for size, groups in ((6, range(6)), (3, [0, 0, 1, 1, 2, 2]))
    )
    mixed = MixedBatches(corpus, others)
    mixed.set_epoch(2)
    batch, ours, theirs = mixed[1], corpus[1], others[1]
    assert torch.equal(batch.anchors, torch.cat([ours.anchors, theirs.anchors])) and batch.seed == ours.seed
    assert torch.equal(batch.positives, torch.cat([ours.positives, theirs.positives]))
    assert batch.groups.tolist() == [*ours.groups.tolist(), *(-1 - theirs.groups).tolist()]
    assert len(mixed) == len(corpus) and mixed.bank is corpus.bank
    windows = mixed.windows(52)
    assert torch.equal(windows, torch.cat([corpus.windows(39), others.windows(13)]))


@pytest.mark.parametrize(
    "groups, sentence",
    [
        ([0, 1], "groups has 2 numbers for 3 sounds"),
        ([1, 0, 1], "expected one number for each sound, in ascending order"),
        ([2, 2, 2], "All 3 sounds share one label"),
    ],
)
def test_groups_that_make_no_sense(groups, sentence):
    with pytest.raises(UserError, match=sentence):
        PairBatches(random_bank([500] * 3), 2, 1, groups=groups)


def test_few_of_each_label_are_the_same_every_time():
    labels = ["dog"] * 5 + [None] * 3 + ["rain"] * 2
    rows = few_of_each(labels, 3, seed=1)
    assert rows == few_of_each(labels, 3, seed=1) == sorted(rows)
    assert [labels[row] for row in rows] == ["dog"] * 3 + ["rain"] * 2
    assert len({tuple(few_of_each(labels, 3, seed)) for seed in range(20)}) > 3


def test_short_sounds_are_padded_never_dropped():
    pairs = batches_of(located([3, 50, 96, 100]), 4, 50)
    seen = torch.cat([pairs[step].groups for step in range(50)])
    assert torch.bincount(seen).min() > 20
    crops = torch.cat([pairs[step].anchors for step in range(50)])[seen == 0]
    assert (crops[:, :3, 0] == 0).all() and (crops[:, 3:] == -1).all()


def test_sounds_are_drawn_by_duration_up_to_the_cap():
    batches = batches_of(random_bank([500, 1000, 2000, 200000]), 4, 1500, max_seconds=20.0, quiet_weight=1.0)
    counts = torch.bincount(torch.cat([batches[step].groups for step in range(1500)])).double()
    torch.testing.assert_close(counts / counts.sum(), torch.tensor([5, 10, 20, 20]).double() / 55, atol=0.02, rtol=0)


def test_nearly_silent_windows_are_rare():
    frames = torch.full((1000, 4), -18.0).half()
    frames[:200] = 0.0
    bank = FrameBank(torch.cat([frames, frames]), torch.tensor([1000, 1000]), -18.0)
    batches = batches_of(bank, 2, 400)
    crops = [crop for step in range(400) for crop in (batches[step].anchors, batches[step].positives)]
    silent = (torch.cat(crops)[:, :96].amax((1, 2)) < -9).float().mean()
    assert 0 < float(silent) < 0.15
    even = batches_of(bank, 2, 200, quiet_weight=1.0)
    assert (
        torch.stack([(even[step].anchors[:, :96].amax((1, 2)) < -9).float().mean() for step in range(200)]).mean() > 0.5
    )


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    def first_anchor(epoch=0, step=0, **kwargs):
        batches = batches_of(random_bank([300] * 8), 8, 5, **kwargs)
        batches.set_epoch(epoch)
        return batches[step]

    assert torch.equal(first_anchor().anchors, first_anchor().anchors)
    assert first_anchor().seed == first_anchor().seed
    for other in ({"epoch": 1}, {"step": 1}, {"seed": 1}):
        assert not torch.equal(first_anchor().anchors, first_anchor(**other).anchors)
        assert first_anchor().seed != first_anchor(**other).seed


def test_impossible_batches_are_one_sentence():
    with pytest.raises(UserError, match="holds one sound"):
        PairBatches(random_bank([500]), 1, 1)
    with pytest.raises(UserError, match="batch_size is 3 and the corpus has 2 sounds .* --batch_size from 2 to 2"):
        PairBatches(random_bank([500, 500]), 3, 1)
    with pytest.raises(IndexError):
        PairBatches(random_bank([500, 500]), 2, 1)[1]


def test_frames_of_bytes_without_a_path(tmp_path):
    rows = synthetic_library(2).select(range(2))
    table = rows.map(lambda row: {"audio": {"bytes": row["audio"]["bytes"], "path": None}})
    frames, problems = split_readable(compute_frames(table, LogMel(), num_proc=1, cache_folder=tmp_path))
    assert frames["path"] == ["<bytes>"] * 2 and not problems


# ---------------------------------------------------------------- Free Music Archive


def write_fma(folder):
    """A tree of the shape of fma_small, and its metadata beside it."""
    tracks = {2: ("Hip-Hop", "AWOL", "training"), 5: ("Rock", "Nicky", "test"), 1000: ("Rock", "Fen", "validation")}
    rows = [",album,artist,set,set,track,track", ",title,name,split,subset,genre_top,title", "track_id,,,,,,"]
    for number, (genre, artist, part) in tracks.items():
        path = folder / "fma_small" / f"{number // 1000:03}" / f"{number:06}.mp3"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(number).normal(size=44100), 44100, format="MP3")
        rows.append(f'{number},"An album, of\nmany lines",{artist},{part},small,{genre},Song {number}')
    (folder / "fma_small" / "checksums").write_text("0 000/000002.mp3")
    (folder / "fma_small" / "000" / "000009.mp3").write_bytes(path.read_bytes())  # not in the table
    (folder / "fma_metadata").mkdir()
    (folder / "fma_metadata" / "tracks.csv").write_text("\n".join(rows) + "\n")
    return folder / "fma_small"


def test_the_free_music_archive_gets_its_metadata(tmp_path):
    folder = write_fma(tmp_path)
    fma_prepare([str(folder)])
    written = (folder / "metadata.csv").read_bytes()
    sounds = load_sounds(folder)
    names = [os.path.basename(audio["path"]) for audio in sounds["audio"]]
    assert names == ["000002.mp3", "000005.mp3", "000009.mp3", "001000.mp3", "checksums"]
    assert list(sounds["label"]) == ["Hip-Hop", "Rock", None, "Rock", None]
    assert list(sounds["artist"]) == list(sounds["source"]) == ["AWOL", "Nicky", None, "Fen", None]
    assert list(sounds["fold"]) == ["training", "test", None, "validation", None]
    frames, problems = load_corpus(LogMel(), folder, label_column="artist", source_column="album", num_proc=1)
    assert len(problems) == 1 and list(frames["label"]) == ["AWOL", "Nicky", None, "Fen"]
    assert frames["source"][0].startswith("An album, of")
    with pytest.raises(UserError, match="label_column is 'mood': expected a column of the corpus: audio, album"):
        load_corpus(LogMel(), folder, label_column="mood", num_proc=1)
    fma_prepare([str(folder)])
    assert (folder / "metadata.csv").read_bytes() == written


def test_what_is_no_music_archive_is_one_sentence(tmp_path):
    folder = write_fma(tmp_path)
    table = tmp_path / "fma_metadata" / "tracks.csv"
    text = table.read_text()
    for content, sentence in (
        ("a,b\n1,2\n3,4\n", "no column genre_top under track"),
        ("", "could not be read as a table"),
        (text.replace("\n2,", "\n3,").replace("\n5,", "\n6,").replace("\n1000,", "\n7,"), "None of the 4 tracks"),
    ):
        table.write_text(content)
        with pytest.raises(UserError, match=sentence):
            fma_prepare([str(folder)])
    table.unlink()
    with pytest.raises(UserError, match="no tracks.csv for .*fma_small"):
        fma_prepare([str(folder)])
    with pytest.raises(UserError, match="holds no tracks of FMA"):
        fma_prepare([str(tmp_path / "fma_metadata")])
    assert not (folder / "metadata.csv").exists()


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("metadata.csv", "file_name,label\ns0.wav,dog,\ns1.wav,cat,,\n", ["dog", "cat"]),
        ("metadata.csv", "\ufefffile_name, label,\ns0.wav, dog\n\ns1.wav,cat\n", ["dog", "cat"]),
        ("metadata.csv", 'file_name, label \ns0.wav, "a, b"\ns1.wav\n', ["a, b", None]),
        ("metadata.csv", "label,file_name\nNA,s0.wav\n05,s1.wav\n", ["NA", "05"]),
        ("metadata.jsonl", '{"file_name": "s0.wav", "label": 3}\n\n{"file_name": "s1.wav"}\n', ["3", None]),
        ("metadata.jsonl", '{"file_name": "s0.wav", "label": 1.5}\n{"file_name": "s1.wav"}', ["1.5", None]),
    ],
)
def test_a_table_is_read_as_it_is_written(tmp_path, name, text, labels):
    for number in range(2):
        write_tone(tmp_path / f"s{number}.wav")
    (tmp_path / name).write_text(text)
    found = list_sources([tmp_path])
    assert [os.path.basename(source.path) for source in found] == ["s0.wav", "s1.wav"]
    assert [source.label for source in found] == labels


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("metadata.csv", "file_name,label\ns0.wav,dog,2019\n", "line 2 has 3 cells, and the header has 2"),
        ("metadata.csv", "file_name,label,label\ns0.wav,dog,2019\n", "expected different names"),
        ("metadata.csv", 'file_name,label\n"s0.wav,dog\n', "could not be read as a table"),
        ("metadata.csv", "file_name;label\ns0.wav;dog\n", "has the columns file_name;label"),
        ("metadata.csv", "file_name,label\n,dog\n", "a row without file_name"),
        ("metadata.csv", "", "it is empty"),
        ("metadata.csv", "file_name,label\ns0.wav,dog\ns0.wav,cat\n", "'s0.wav' a second label .'dog' and 'cat'."),
        ("metadata.csv", 'file_name,label\n"s\0.wav",dog\n', "holds a null byte"),
        ("metadata.jsonl", '{"file_name": "s\\u0000.wav"}\n', "holds a null byte"),
        ("metadata.jsonl", '{"file_name": "s0.wav", "label": "\\ud800"}\n', "could not be read as a table"),
        ("metadata.jsonl", '{"file_name": "s0.wav", "label": "dog", "label": "cat"}\n', "expected different names"),
        ("metadata.jsonl", '{"file_name": "s0.wav", "label": "dog", " label": "cat"}\n', "expected different names"),
        ("metadata.jsonl", "[1, 2]\n", "line 1 is no object"),
        ("metadata.jsonl", '{"file_name": "s0.wav"}\n{"file_name"\n', "could not be read as a table"),
        ("metadata.parquet", "no parquet", "could not be read as a table"),
    ],
)
def test_a_table_that_does_not_fit_is_one_sentence(tmp_path, name, text, sentence):
    write_tone(tmp_path / "s0.wav")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        list_sources([tmp_path])
    assert "\n" not in str(caught.value)


def test_where_the_cache_cannot_be_written(tmp_path, monkeypatch, caplog):
    """A temporary folder takes its place, with a warning."""
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    for number in range(3):
        write_tone(tmp_path / "sounds" / f"{number}.wav")
    corpus = load_corpus(LogMel(), tmp_path / "sounds", num_proc=1)
    assert len(corpus.frames) == 3 and "frames are not kept" in caplog.text
    assert len(FrameBank.from_dataset(corpus.frames, LogMel(), max_bytes=0)) == 3
    assert load_corpus(LogMel(), tmp_path / "sounds", num_proc=1).frames[:] == corpus.frames[:]


def test_spaces_and_nan_in_tables_of_other_programs(tmp_path):
    """pandas writes NaN where a label is missing."""
    write_tone(tmp_path / " s0.wav")  # the name of a file keeps its space
    write_tone(tmp_path / "s1.wav")
    rows = {"file_name ": [" s0.wav", "s1.wav"], " label": pa.array([float("nan"), 3.5])}
    pq.write_table(pa.table(rows), tmp_path / "metadata.parquet")
    assert [(source.label, source.size > 0) for source in list_sources([tmp_path])] == [(None, True), ("3.5", True)]
    (tmp_path / "metadata.parquet").unlink()
    text = '{"file_name": " s0.wav", "label": NaN}\n{" file_name": "s1.wav", "label ": " dog "}\n'
    (tmp_path / "metadata.jsonl").write_text(text)
    assert [(source.label, source.size > 0) for source in list_sources([tmp_path])] == [(None, True), ("dog", True)]


def test_a_row_may_repeat_what_another_says_of_its_file(tmp_path):
    write_tone(tmp_path / "s0.wav")
    (tmp_path / "metadata.csv").write_text("file_name,label,fold\ns0.wav,3,\ns0.wav,3,5\n")
    assert load_sounds(tmp_path)[0] | {"audio": None} == {"audio": None, "label": "3", "fold": "5"}


def test_mixed_batches_treat_each_pair_by_its_place_in_the_whole_batch():
    some = OneKindPerExample([Gain(), TemporalProximity()])
    corpus, others = (
        batches_of(located([300] * 6), size, groups=groups, deformation=some)
        for size, groups in ((2, range(6)), (6, [0, 0, 1, 1, 2, 2]))
    )
    mixed = MixedBatches(corpus, others)
    for step in range(10):
        batch = mixed[step]
        same = (batch.anchors == batch.positives).flatten(1).all(1)
        assert same[:4].all() and not same[4:].any()
        assert (batch.anchors[4:, 0, 0] != batch.positives[4:, 0, 0]).all()  # two sounds of a group


@pytest.mark.parametrize("share, size", [(1.0, 128), (75, 128), (-0.1, 128), (0.75, 4), (0.99, 128), (0.005, 128)])
def test_shares_that_leave_too_few_pairs_are_one_sentence(share, size):
    with pytest.raises(UserError, match=f"synthetic_share is {share}"):
        own_pairs(size, share, None)
