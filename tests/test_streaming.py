"""Training on sounds that are never stored: Parquet and WebDataset shards, the buffer, and the recipe."""

import io
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch

from cochlea_sb.data.corpus import hold_out, load_corpus
from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.sounds import list_sources, load_sounds
from cochlea_sb.data.stream_bank import StreamBank
from cochlea_sb.data.streams import SoundStream
from cochlea_sb.errors import UserError
from cochlea_sb.features import LogMel
from cochlea_sb.training import streamed_pairs
from cochlea_sb.training.distributed import Share
from cochlea_sb.training.recipe import load_experiment
from cochlea_sb.training.streamed_pairs import StreamedPairs

ROOT = Path(__file__).resolve().parent.parent
RATE = 16000
UNREAD = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
NO_FOLDS = {"valid_folds": [], "valid_share": 0.0}


def make_rows(count=24):
    """Noises of 0.3 to 1 s with labels, sources and folds; one of them is no audio."""
    random, rows = np.random.default_rng(0), []
    for number in range(count):
        out = io.BytesIO()
        soundfile.write(out, 0.3 * random.standard_normal(random.integers(RATE // 3, RATE)), RATE, format="WAV")
        audio = {"bytes": out.getvalue(), "path": f"{number:02d}.wav"}
        rows.append(
            {"audio": audio, "label": "ab"[number % 2], "source": f"s{number // 2}", "fold": number // 2 % 5 + 1}
        )
    rows[7]["audio"]["bytes"] = b"RIFF....WAVE"
    return rows


def write_parquet(rows, path):
    text = datasets.Value("string")
    features = datasets.Features(audio=UNREAD, label=text, source=text, fold=datasets.Value("int64"))
    datasets.Dataset.from_list(rows, features).to_parquet(path)


def write_tar(rows, path):
    with tarfile.open(path, "w") as tar:
        for row in rows:
            facts = json.dumps({name: value for name, value in row.items() if name != "audio"}).encode()
            stem = row["audio"]["path"].removesuffix(".wav")
            for suffix, content in ((".wav", row["audio"]["bytes"]), (".json", facts)):
                member = tarfile.TarInfo(f"{stem}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folders ``parquet`` and ``tar`` with the same rows in three shards each."""
    folder, rows = tmp_path_factory.mktemp("shards"), make_rows()
    for kind, write in (("parquet", write_parquet), ("tar", write_tar)):
        (folder / kind / "deep").mkdir(parents=True)
        for number in range(3):
            write(rows[number::3], folder / kind / "deep" / f"{number}.{kind}")
    return folder


@pytest.fixture(scope="module")
def frames(shards):
    """The frames of the same rows, computed as for training in memory."""
    return load_corpus(LogMel(), shards / "parquet", num_proc=1).frames


def described(sounds):
    return sorted((sound.name, sound.key, sound.label, sound.source, sound.fold) for sound in sounds)


def test_both_kinds_of_shards_stream_the_same_sounds_in_each_pass(shards):
    parquet, tar = (SoundStream(shards / kind, seed=3) for kind in ("parquet", "tar"))
    first = described(parquet.sounds(0))
    assert first == described(tar.sounds(0)) == described(parquet.sounds(1))
    assert [row[0] for row in first] == [f"{number:02d}.wav" for number in range(24)]
    assert first[5][2:] == ("b", "s2", "3")
    orders = {tuple(sound.name for sound in parquet.sounds(number)) for number in range(6)}
    assert len(orders) > 1  # another order of the shards


@pytest.mark.parametrize("options", [{"valid_folds": [5]}, {"valid_folds": [], "valid_share": 0.3}])
def test_a_stream_holds_out_what_training_in_memory_does(shards, frames, options):
    if not options["valid_folds"]:
        frames = frames.remove_columns("fold")
    train, held_out = hold_out(frames, options["valid_folds"], options.get("valid_share", 0.1))
    stream = SoundStream(shards / "tar", **options)
    if not options["valid_folds"]:
        stream.folds = None
    kept = {sound.name for sound in stream.sounds() if not stream.is_held_out(sound)}
    assert kept - {"07.wav"} == set(frames.select(train)["path"])
    assert {row["path"] for row in stream.held_out()["audio"]} - {"07.wav"} == set(frames.select(held_out)["path"])


def held_sounds(bank):
    """The frames of the sounds of a bank, by the key of each sound."""
    return {place.key: bank.frames[place.first : place.end] for place in bank.places}


def test_a_stream_that_fits_is_read_once_and_equals_the_bank_in_memory(shards, frames):
    stream = SoundStream(shards / "tar", **NO_FOLDS)
    bank = StreamBank(stream, 10_000, LogMel())
    assert bank.complete and len(bank) == len(frames) == 23
    assert list(bank.report.problems) == ["07.wav"] and bank.report.n_sounds == 23
    whole = FrameBank.from_dataset(frames, LogMel())
    keys = {sound.key: sound.name for sound in stream.sounds()}
    order = torch.tensor([list(frames["path"]).index(keys[place.key]) for place in bank.places])
    starts = torch.arange(23) % 5 - 2
    assert torch.equal(bank.crops(torch.arange(23), starts, 96), whole.crops(order, starts, 96))
    windows = torch.arange(23), torch.zeros(23, dtype=torch.int64)
    torch.testing.assert_close(bank.peaks(*windows, 30)[0], whole.peaks(order, windows[1], 30)[0])
    pairs = StreamedPairs(bank, 8, 4, draws_per_sound=1)
    assert torch.equal(pairs[0].anchors, StreamedPairs(bank, 8, 4, draws_per_sound=1)[0].anchors)


def test_a_ring_holds_the_newest_sounds_whole_and_each_once(shards, frames, monkeypatch):
    monkeypatch.setattr("cochlea_sb.data.stream_reader.BLOCK_SOUNDS", 2)
    stream = SoundStream(shards / "parquet", **NO_FOLDS)
    names = {sound.key: sound.name for sound in stream.sounds()}
    counts = dict(zip(frames["path"], frames["n_frames"], strict=True))
    truth = {path: row for path, row in zip(frames["path"], frames["frames"], strict=True)}
    bank, seen = StreamBank(stream, 700, LogMel()), set()
    assert bank.evicted and not bank.complete
    pairs = StreamedPairs(bank, 4, 100, draws_per_sound=2)
    for step in range(40):
        batch = pairs[step]
        held = held_sounds(bank)
        assert len(held) == len(bank.places) == len(bank) >= 6  # none is there twice
        assert sum(map(len, held.values())) <= 700
        assert bank.lengths.tolist() == [counts[names[place.key]] for place in bank.places]
        for key, own in held.items():
            assert own.flatten().tolist() == truth[names[key]]
        assert batch.groups.max() < len(bank)
        seen |= held.keys()
    assert seen == {key for key, name in names.items() if name != "07.wav"}


def test_a_sound_too_long_for_the_buffer_and_a_buffer_too_small_for_a_batch(shards):
    stream = SoundStream(shards / "parquet", **NO_FOLDS)
    bank = StreamBank(stream, 300, LogMel())
    assert any("at most a quarter of --buffer_hours" in problem for problem in bank.report.problems.values())
    with pytest.raises(UserError, match=r"use a larger --buffer_hours"):
        StreamedPairs(bank, 20, 4, draws_per_sound=1)
    with pytest.raises(UserError, match="No sound of the stream can be used"):
        StreamBank(stream, 40, LogMel())


def test_a_shard_that_is_cut_off_or_damaged_is_named(shards, tmp_path):
    words = "could not be read further in '{}' .* mend or remove the shard"
    write_tar(make_rows(), tmp_path / "0.tar")
    content = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=words.format(tmp_path / "0.tar")):
        StreamBank(SoundStream(tmp_path, **NO_FOLDS), 10_000, LogMel())
    (tmp_path / "0.tar").write_bytes(b"no archive")
    with pytest.raises(UserError, match="could not be loaded"):
        SoundStream(tmp_path)
    (tmp_path / "0.tar").unlink()
    for number in range(2):
        write_parquet(make_rows(), tmp_path / f"{number}.parquet")
    damaged = bytearray((tmp_path / "1.parquet").read_bytes())
    damaged[4:300] = bytes(296)  # the start of a page; the footer, with the schema, is whole
    (tmp_path / "1.parquet").write_bytes(damaged)
    with pytest.raises(UserError, match=words.format(tmp_path / "1.parquet")):
        StreamBank(SoundStream(tmp_path, **NO_FOLDS), 10_000, LogMel())


def test_a_text_named_like_a_parquet_file_is_named(tmp_path, capfd):
    shard = tmp_path / "1.parquet"
    shard.write_text("no table")
    datasets.Dataset.from_dict({"audio": [{"bytes": b"", "path": None}]}).to_parquet(tmp_path / "0.parquet")
    for read in (SoundStream, load_sounds, list_sources):
        with pytest.raises(UserError, match=f"'{shard}' can't be read as Parquet"):
            read(tmp_path)
    assert "schema" not in capfd.readouterr().err


@pytest.mark.parametrize("total", [2, 3])
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_the_parts_of_several_processes_are_all_sounds_each_once(shards, kind, total):
    stream = SoundStream(shards / kind, seed=3)
    for number in range(2):
        parts = [described(stream.part(part, total).sounds(number)) for part in range(total)]
        assert sorted(sound for part in parts for sound in part) == described(stream.sounds(number))
        assert all(len(part) >= 24 // total - 4 for part in parts)


def test_a_batch_of_several_processes_has_rows_of_each(shards, monkeypatch):
    monkeypatch.setattr(streamed_pairs, "summed", lambda values: values)
    stream, batches = SoundStream(shards / "parquet", **NO_FOLDS), []
    for number in range(2):
        monkeypatch.setattr(streamed_pairs, "own_share", lambda number=number: Share(number, 2))
        pairs = StreamedPairs(StreamBank(stream.part(number, 2), 10_000, LogMel()), 8, 5, draws_per_sound=10)
        batches.append((pairs[0], pairs.windows(6)))
    (batch, windows), (other, other_windows) = batches
    assert batch.seed == other.seed
    for own, others in ((batch[:3], other[:3]), ([windows], [other_windows])):
        for rows, other_rows in zip(own, others, strict=True):
            assert not rows[1::2].any() and not other_rows[::2].any()
            assert rows[::2].any() and other_rows[1::2].any()
    assert not set(batch.groups[::2].tolist()) & set(other.groups[1::2].tolist())


def train_on_shards(folder, shards):
    """The command of a short training on a stream."""
    command = ["recipes/train.py", "hparams/cnn.yaml", "--streaming", "True", "--data_folder", shards / "tar"]
    command += ["--buffer_hours", "0.01", "--batch_size", "8", "--channels", "[16, 32, 64]"]
    command += ["--number_of_epochs", "2", "--steps_per_epoch", "3", "--num_proc", "1", "--output_folder", folder]
    return list(map(str, command))


def test_two_processes_train_on_a_stream(shards, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [*train_on_shards(folder, shards), "--n_sources", "16", "--synthetic_share", "0.25"]
    command += ["--device", "cpu"]  # chooses gloo
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Skipped 1 of 20 files" in done.stdout and done.stdout.count("The model, after 2 epochs") == 1
    assert "07.wav" in (folder / "skipped.csv").read_text()
    facts = json.loads((folder / "training.json").read_text())
    assert (facts["sounds"], facts["skipped"]) == (19, 1)
    assert all(0 < row["train loss"] < 1 for row in json.loads((folder / "history.json").read_text()))


def test_the_recipe_trains_on_a_stream(script, shards, tmp_path):
    folder = tmp_path / "run"
    out = script(*train_on_shards(folder, shards), "--n_sources", "0").stdout
    assert f"The model, after 2 epochs, is in {folder}" in out and "Skipped 1 of 20 files" in out
    assert len((folder / "train_log.txt").read_text().splitlines()) == 2
    assert "07.wav" in (folder / "skipped.csv").read_text()
    facts = json.loads((folder / "training.json").read_text())
    assert (facts["corpus"], facts["sounds"], facts["skipped"]) == ("folder", 19, 1)
    assert "mAP" in (folder / "train_log.txt").read_text()  # of the held-out sounds of fold 5


@pytest.mark.parametrize("key, value", [("pair_by", "label"), ("length_band", 0.2), ("labels_per_class", 5)])
def test_what_a_stream_cannot_do_is_one_sentence(key, value):
    open_stream = runpy.run_path("recipes/train.py")["open_stream"]
    hparams, _ = load_experiment("hparams/cnn.yaml", {"data_folder": "no/such/folder"})
    with pytest.raises(UserError, match=f"{key} is {value!r}: with streaming, expected "):
        open_stream({**hparams, key: value})


def test_what_is_no_stream_is_one_sentence(shards, tmp_path):
    with pytest.raises(UserError, match=f"'{tmp_path}' holds no shards: streaming expects Parquet"):
        SoundStream(tmp_path)
    with pytest.raises(UserError, match="holds shards of both kinds"):
        SoundStream(shards)
    with pytest.raises(UserError, match="give one of the two"):
        SoundStream()
    with pytest.raises(UserError, match="label_column is 'genre': expected a column of the corpus: "):
        SoundStream(shards / "tar", label_column="genre")
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "0.parquet")
    with pytest.raises(UserError, match="has no audio column: its columns are text"):
        SoundStream(tmp_path)


def test_processes_with_few_sounds_end_with_one_sentence(shards, monkeypatch):
    bank = StreamBank(SoundStream(shards / "parquet", **NO_FOLDS), 10_000, LogMel())
    monkeypatch.setattr(streamed_pairs, "own_share", lambda: Share(0, 2))
    monkeypatch.setattr(streamed_pairs, "collected", lambda value: [value, (9, False)])
    assert StreamedPairs(bank, 18, 5, draws_per_sound=10)[0].anchors.shape[0] == 18
    with pytest.raises(UserError, match="One of 2 processes holds 9 sounds of the stream, and a batch has 20 pairs"):
        StreamedPairs(bank, 20, 5, draws_per_sound=10)
