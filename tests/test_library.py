"""The sound library: what is added is found; what has changed, gone or broken is dealt with; queries of every form."""

import csv
import errno
import fnmatch
import os
import re
import shutil
from fractions import Fraction

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from cochlea_sb import AudioEncoder, SoundLibrary
from cochlea_sb.audio import read_audio
from cochlea_sb.errors import UserError
from cochlea_sb.inference import batch
from cochlea_sb.library import duplicates, filters, writer
from cochlea_sb.library.map import middle_vectors, principal_places, regions
from cochlea_sb.library.take_away import copy_to


@pytest.fixture(scope="module")
def encoder(model_folder):
    return AudioEncoder.from_hparams(model_folder, run_opts={"device": "cpu"})


@pytest.fixture
def folder(tmp_path):
    """A dozen sounds of two kinds in two folders, and one that is none."""
    rng = np.random.default_rng(0)
    for number in range(6):
        for kind, wav in (
            ("tone", tone(200 * 1.2**number)),
            ("noise", 0.1 * rng.standard_normal(16000 + 4000 * number)),
        ):
            path = tmp_path / "sounds" / kind / f"{kind}{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wav, 16000)
    (tmp_path / "sounds" / "broken.wav").write_bytes(b"RIFF....WAVE")
    return tmp_path / "sounds"


@pytest.fixture
def library(encoder, folder, tmp_path):
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    library.add(folder, folder_labels=True, progress=False)
    return library


def tone(hertz, seconds=1.5):
    return 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(16000 * seconds)) / 16000)


def contents(library):
    """Every window: path, start, and its embedding as the library finds it."""
    found = {}
    state = library._state
    for row in np.flatnonzero(state.known & (state.counts > 0)):
        path = state.sounds["path"][int(row)].as_py()
        found |= {(path, i): vector for i, vector in enumerate(state.vectors_of(state.windows_of(np.array([row]))))}
    return found


def check(library, encoder, files):
    """The library holds the windows of these files, and nothing else."""
    expected = {}
    for path in map(str, files):
        for number, vector in enumerate(encoder.encode_windows(path, library.hop_seconds)[0].numpy()):
            expected[path, number] = vector
    found = contents(library)
    assert found.keys() == expected.keys()
    for key, vector in expected.items():
        np.testing.assert_allclose(found[key], vector, atol=1e-5)


def test_every_window_of_every_sound_is_there(library, encoder, folder):
    files = sorted(folder.glob("*/*.wav"))
    check(library, encoder, files)
    assert len(library) == 12 and list(library.problems) == [str(folder / "broken.wav")]
    assert "not audio" in library.problems[str(folder / "broken.wav")]
    library.merge()
    check(library, encoder, files)
    check(SoundLibrary.open(library.store.folder), encoder, files)


def test_a_sound_finds_its_own_windows_and_its_kind(library, encoder, folder):
    query = folder / "noise" / "noise5.wav"
    matches = library.search(query, k=3, with_query=True)
    assert matches[0].path == str(query) and [match.label for match in matches] == ["noise"] * 3
    others = library.search(query, k=20)
    assert len(others) == 11 and str(query) not in [match.path for match in others]
    assert [match.score for match in others] == sorted((match.score for match in others), reverse=True)
    best = encoder.encode_windows(others[0].path)[0] @ encoder.encode_file(query)
    assert others[0].score == pytest.approx(float(best.max()), abs=1e-5)
    assert others[0].start_seconds == pytest.approx(0.48 * int(best.argmax()))
    seconds = len(read_audio(others[0].path)) / 16000
    assert others[0].end_seconds == pytest.approx(min(others[0].start_seconds + 0.96, seconds))


def test_pages_follow_each_other(library, folder):
    query = folder / "tone" / "tone0.wav"
    everything = library.search(query, k=100)
    pages = [match for skip in range(0, 12, 3) for match in library.search(query, k=3, skip=skip)]
    assert pages == everything
    windows = library.search(query, k=1000, every_window=True, with_query=True)
    assert len(windows) == library.n_windows == len(set(windows))


def test_queries_of_every_form_agree(library, encoder, folder):
    path = folder / "tone" / "tone3.wav"
    wav, vector = read_audio(path), encoder.encode_file(path)
    first = library.search(str(path), with_query=True)
    for query in (path, wav, torch.from_numpy(wav), vector, vector.numpy(), 3 * vector.numpy().astype(float), {path: 2},
                  [(vector, 1.0)], (path, 0.0, None), {str(path): 1.5, path: 0.5}):  # fmt: skip
        found = library.search(query, with_query=True)
        assert [match.path for match in found] == [match.path for match in first]  # windows of a tone are as good
        assert [match.score for match in found] == pytest.approx([match.score for match in first], abs=1e-4)
    part = encoder.encode_file(path, 0.2, 0.9)
    assert library.search((path, 0.2, 0.9), 1)[0].score == pytest.approx(library.search(part, 2)[1].score, abs=0.3)
    assert np.allclose(library.encode((path, 0.2, 0.9)).vector, part, atol=1e-6)


def test_a_mixture_is_the_weighted_sum(library, encoder, folder):
    one, other = folder / "tone" / "tone0.wav", folder / "noise" / "noise0.wav"
    expected = 0.7 * encoder.encode_file(one) - 0.3 * encoder.encode_file(other)
    example = library.encode({one: 0.7, other: -0.3})
    np.testing.assert_allclose(example.vector, expected / expected.norm(), atol=1e-6)
    same = library.encode([str(one), other]).vector
    np.testing.assert_allclose(same, library.encode({one: 2, other: 2}).vector, atol=1e-6)
    found = [match.path for match in library.search({one: 0.7, other: -0.3}, k=100)]
    assert len(found) == 10 and str(one) not in found and str(other) not in found


def test_filters(library, folder):
    query = folder / "tone" / "tone0.wav"
    assert {match.label for match in library.search(query, 100, label="noise")} == {"noise"}
    assert len(library.search(query, 100, path="noise/noise")) == 6
    assert len(library.search(query, 100, path="*/tone?.wav")) == 5
    assert library.search(query, 100, path="no such") == library.search(query, 100, label="no such") == []
    assert {match.label for match in library.search(query, 100, words="SOUNDS -Noise")} == {"tone"}
    assert [match.path for match in library.search(query, words="noise noise3")] == [str(folder / "noise/noise3.wav")]
    assert len(library.search(query, 100, min_seconds=1.5)) == 5 + 4  # the tones, and noises of 1.5 to 2.25 s
    assert len(library.search(query, 100, max_seconds=1.25, label="noise")) == 2
    for mistake, name in (({"words": 3}, "words is 3"), ({"min_seconds": "1"}, "min_seconds is '1'")):
        with pytest.raises(UserError, match=name):
            library.search(query, **mistake)


def test_filters_of_paths_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    letters = list("aAb/.*?[]!-\nßẞİΣςéÉ%_\\") + [".wav", r"\xff"]
    names = ["".join(rng.choice(letters, rng.integers(1, 12))) for _ in range(300)]
    paths = pa.chunked_array([names[:100], names[100:], []])
    for text in ["".join(rng.choice(letters, rng.integers(1, 4))) for _ in range(300)] + ["*.wav", "a*", "?", "[!a]*"]:
        pattern = fnmatch.translate(text) if set(text) & set("*?[") else f"(?s:.*{re.escape(text)})"
        assert filters.with_path(paths, text).tolist() == [bool(re.match(pattern, name)) for name in names], text
        word = text.casefold()
        assert filters.with_words(paths, [word]).tolist() == [
            (word[1:] not in name.casefold()) if word[0] == "-" and word[1:] else word in name.casefold()
            for name in names
        ], text


def test_a_name_that_is_not_utf8_is_found_by_its_bytes_and_by_its_escaped_form(encoder, folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    shutil.copy(folder / "tone" / "tone0.wav", tmp_path / name)
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    library.add(tmp_path / name, progress=False)
    vector = np.ones(library.encoder.embedding_size)
    for options in ({"words": name}, {"path": name}, {"path": "*" + name}, {"words": r"CAF\xe9"}):
        assert len(library.search(vector, **options)) == 1
    for options in ({"words": "\ud800"}, {"path": "\ud800"}, {"label": "\ud800"}):
        with pytest.raises(UserError, match="no path holds"):
            library.search(vector, **options)


def test_matches_of_one_folder_are_capped_and_copies_are_folded(library, folder, monkeypatch):
    monkeypatch.setattr(filters, "COPY_SIMILARITY", 0.9999)  # the encoder of the tests is not trained
    query = folder / "tone" / "tone0.wav"
    everything = [match.path for match in library.search(query, 100)]
    capped = [match.path for match in library.search(query, 100, per_folder=2)]
    expected = []
    for path in everything:
        if sum(os.path.dirname(other) == os.path.dirname(path) for other in expected) < 2:
            expected.append(path)
    assert capped == expected and len(capped) == 4
    (folder / "copies").mkdir()
    for kind in ("tone3", "noise2"):
        wav, _ = soundfile.read(folder / kind[:-1] / f"{kind}.wav")
        soundfile.write(folder / "copies" / f"{kind}.flac", 0.5 * wav, 16000)
    library.add(folder / "copies", progress=False)
    folded = library.search(query, 100, fold_copies=True)
    copies = {os.path.basename(match.path): match.copies for match in folded}
    for kind in ("tone3", "noise2"):
        found = [name for name in copies if name.startswith(kind)]
        assert len(found) == 1
        other = folder / "copies" / f"{kind}.flac" if found[0].endswith(".wav") else folder / kind[:-1] / f"{kind}.wav"
        assert str(other) in copies[found[0]]
    assert len(folded) + sum(map(len, copies.values())) == 13
    pages = [m for skip in range(0, len(folded), 2) for m in library.search(query, 2, skip=skip, fold_copies=True)]
    assert [match.path for match in pages] == [match.path for match in folded]


def test_nothing_is_added_twice_and_what_changed_is_replaced(library, encoder, folder):
    windows = library.n_windows
    added = library.add([folder, folder / "tone", folder / "tone" / "tone0.wav"], progress=False)
    assert added == (0, 13, {}, 0) and library.n_windows == windows
    changed = folder / "tone" / "tone0.wav"
    soundfile.write(changed, tone(3000, 3.0), 16000)
    soundfile.write(folder / "broken.wav", tone(440), 16000)
    added = library.add(folder, progress=False)
    assert added.added == 2 and not library.problems
    files = [*folder.glob("*/*.wav"), folder / "broken.wav"]
    check(library, encoder, files)
    changed.write_bytes(b"no longer a sound")
    assert list(library.add(folder, progress=False).problems) == [str(changed)]
    assert list(library.problems) == [str(changed)]
    check(library, encoder, [file for file in files if file != changed])
    library.merge()
    check(library, encoder, [file for file in files if file != changed])


def test_what_was_moved_copied_or_touched_is_not_embedded_again(library, encoder, folder, monkeypatch):
    def decoded(*arguments, **options):
        raise AssertionError("decoded again")

    for saved in (False, True):  # beside the index, and in it
        if saved:
            library.merge()
        monkeypatch.setattr("cochlea_sb.inference.batch.read_audio", decoded)
        shutil.copytree(folder / "tone", folder / f"copy{saved}")
        os.rename(folder / "noise", folder / "other")
        os.utime(folder / "tone" / "tone0.wav", ns=(1, 1 + saved))
        assert library.add(folder, progress=False).added == 6 + 6 + 1
        labels = dict(zip(*(library.sounds[name].to_pylist() for name in ("path", "label")), strict=True))
        assert not any("/noise/" in path for path in labels)
        assert {label for path, label in labels.items() if "/other/" in path} == {"noise"}
        os.rename(folder / "other", folder / "third")
        with pytest.raises(UserError, match="6 files in all such folders.*--yes"):
            library.prune()
        assert len(library.prune(whole_folders=True)) == 6
        monkeypatch.undo()
        os.rename(folder / "third", folder / "noise")
        shutil.rmtree(folder / f"copy{saved}")
        library.add(folder, folder_labels=True, progress=False)
        library.prune(whole_folders=True)
        check(library, encoder, sorted(folder.glob("*/*.wav")))


def test_what_could_not_be_read_is_tried_again_only_when_asked(library, folder):
    assert library.add(folder, progress=False).problems == {}
    assert list(library.add(folder, retry=True, progress=False).problems) == [str(folder / "broken.wav")]


def test_removing_and_pruning(library, encoder, folder):
    library.merge()
    assert library.remove(folder / "noise" / "noise0.wav") == 1
    assert library.remove(str(folder / "tone" / "tone[01].wav")) == 2
    left = sorted(folder.glob("*/*.wav"))[1:6] + sorted(folder.glob("tone/*.wav"))[2:]
    check(library, encoder, left)
    assert {match.path for match in library.search(left[0], 100, with_query=True)} == set(map(str, left))
    assert library.remove([folder / "noise"]) == 5
    os.remove(folder / "tone" / "tone5.wav")
    assert library.prune() == [str(folder / "tone" / "tone5.wav")]
    check(library, encoder, left[5:-1])
    with pytest.raises(UserError, match="neither a sound of"):
        library.remove(folder / "noise")
    library.add(folder, progress=False)
    check(library, encoder, sorted(folder.glob("*/*.wav")))
    library.remove(folder)
    assert len(library) == library.n_windows == 0 and library.search(tone(200)) == []
    library.merge()
    assert len(SoundLibrary.open(library.store.folder)) == 0


def test_a_large_library_answers_as_a_small_one(encoder, folder, tmp_path, monkeypatch):
    """Through the index by random projections, with sounds added, changed and removed beside it."""
    monkeypatch.setattr(writer, "FEW", 10)
    monkeypatch.setattr(writer, "MOST_FILES", 3)
    library = SoundLibrary.create(tmp_path / "b.library", encoder, hop_seconds=0.05)
    library.add([folder / "tone"], progress=False)
    assert library._state.index is not None and library._state.delta is None
    for file in sorted((folder / "noise").glob("*.wav"))[:3]:
        library.add(file, progress=False)
        library.remove(file)
        library.add(file, progress=False)
    soundfile.write(folder / "tone" / "tone1.wav", tone(50), 16000)
    library.add([folder], progress=False, commit_seconds=0)
    check(library, encoder, sorted(folder.glob("*/*.wav")))


def test_the_label_comes_from_metadata_or_the_folder(encoder, folder, tmp_path):
    (folder / "metadata.csv").write_text("file_name,label\ntone/tone0.wav,sine\n")
    library = SoundLibrary.create(tmp_path / "b.library", encoder)
    library.add(folder / "metadata.csv", progress=False)
    assert library.sounds["label"].to_pylist() == ["sine"] and len(library) == 1
    library.add(folder, folder_labels=True, progress=False)
    assert sorted(set(library.sounds["label"].to_pylist())) == ["noise", "sine", "tone"]
    (folder / "metadata.csv").write_text("file_name,label\ntone/tone0.wav,sinus\n")
    assert library.add(folder / "metadata.csv", progress=False).relabelled == 1
    assert library.add(folder / "tone" / "tone0.wav", progress=False).added == 0
    assert sorted(set(library.sounds["label"].to_pylist())) == ["noise", "sinus", "tone"]


def test_rows_of_a_dataset(encoder, folder, tmp_path):
    files = sorted(folder.glob("*/*.wav"))[:4]
    audio = [{"bytes": file.read_bytes(), "path": file.name} for file in files] + [{"bytes": b"none", "path": "x.wav"}]
    rows = datasets.Dataset.from_dict({"audio": audio, "label": [0, 1, 0, 1, 1]})
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    rows = rows.cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    library = SoundLibrary.create(tmp_path / "b.library", encoder)
    added = library.add(rows, progress=False)
    assert added.added == 4 and len(added.problems) == 1
    assert library.add(rows, progress=False) == (0, 5, {}, 0)
    assert library.sounds["label"].to_pylist() == ["a", "b", "a", "b"]
    match = library.search(files[2], 1)[0]
    assert match.path.endswith("#2") and match.score > 0.9
    assert library.prune() == []


def test_names_of_all_sorts(encoder, folder, tmp_path):
    """A sharp is no row of a dataset, a link no second sound, another's library.json no library."""
    sharp, odd = folder / "tone" / "C#4.wav", os.fsencode(tmp_path) + b"/\xff\xfe.wav"
    shutil.copy(folder / "tone" / "tone0.wav", sharp)
    shutil.copy(folder / "tone" / "tone0.wav", odd)
    os.symlink(folder / "tone", folder / "noise" / "link")
    (folder / "noise" / "library.json").write_text("{}")
    library = SoundLibrary.create(tmp_path / "b.library", encoder)
    assert library.add([os.fsdecode(odd)], progress=False).added == 1
    added = library.add([folder / "noise", folder / "tone"], progress=False)
    assert len(library) == 12 + 2 and any("library.json" in path for path in added.problems)
    assert not library.search(sharp, 1)[0].path.endswith("C#4.wav")
    os.remove(sharp)
    assert str(sharp) in library.prune()
    for nothing in ("", 5):
        for given in (nothing, [nothing]):
            with pytest.raises(UserError, match=f"^There is no sound {nothing!r} to remove"):
                library.remove(given)
        with pytest.raises(UserError, match="no sounds in"):
            library.add([nothing])


def test_splits_are_not_taken_for_each_other_and_changed_rows_are_seen(encoder, folder, tmp_path):
    def rows(*names):
        audio = [{"bytes": (folder / name).read_bytes(), "path": None} for name in names]
        return datasets.Dataset.from_dict({"audio": audio}).cast_column("audio", datasets.Audio(decode=False))

    one, other = rows("tone/tone0.wav", "noise/noise0.wav"), rows("tone/tone1.wav", "tone/tone2.wav")
    datasets.DatasetDict({"train": one, "test": other}).save_to_disk(tmp_path / "saved")
    library = SoundLibrary.create(tmp_path / "b.library", encoder)
    assert library.add(tmp_path / "saved", progress=False).added == 2
    assert library.add(tmp_path / "saved", split="test", progress=False).added == 2
    shutil.rmtree(tmp_path / "saved")
    again = rows("tone/tone3.wav", "noise/noise0.wav")
    datasets.DatasetDict({"train": again, "test": other}).save_to_disk(tmp_path / "saved")
    assert library.add(tmp_path / "saved", progress=False)[:2] == (1, 1)
    assert library.remove(tmp_path / "saved") == 4


def test_a_library_among_the_sounds_is_not_taken_for_sounds(encoder, folder):
    library = SoundLibrary.create(folder / "own.library", encoder)
    library.add(folder, progress=False)
    library.merge()
    assert library.add(folder, progress=False) == (0, 13, {}, 0)


def test_another_encoder_is_refused(library, model_folder, folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    other = AudioEncoder.from_hparams(tmp_path / "model", run_opts={"device": "cpu"})
    SoundLibrary.open(library.store.folder, other)  # a copy is the same encoder
    with torch.no_grad():
        other.mods.embedding_model.project[0].weight += 0.01
    with pytest.raises(UserError, match="made with another encoder"):
        SoundLibrary.open(library.store.folder, other)


def test_the_encoder_is_loaded_when_it_is_needed(library, encoder, folder, tmp_path):
    opened = SoundLibrary.open(library.store.folder)
    assert opened.search(np.ones(128), 2) and opened._encoder is None
    assert opened.search(folder / "tone" / "tone0.wav", 1) and opened._encoder is not None
    moved = tmp_path / "moved.library"
    shutil.copytree(library.store.folder, moved)
    manifest = (moved / "library.json").read_text().replace(encoder.source, "/no/such/model")
    (moved / "library.json").write_text(manifest)
    with pytest.raises(UserError, match="can't be loaded.*holds no model"):
        SoundLibrary.open(moved).search(folder / "tone" / "tone0.wav")


@pytest.mark.parametrize(
    "ask, words",
    [
        (lambda library: library.search("missing.wav"), "missing.wav: cannot be opened"),
        (lambda library: library.search(np.ones(128), k=0), "k is 0"),
        (lambda library: library.search(np.ones(128), skip=-1), "skip is -1"),
        (lambda library: library.search(np.ones((2, 128))), r"shape \[2, 128\]"),
        (lambda library: library.search(np.full(128, np.nan)), "NaN"),
        (lambda library: library.search(np.zeros(128)), "zero"),
        (lambda library: library.search(None), "a NoneType: expected a file"),
        (lambda library: library.search({}), "empty"),
        (lambda library: library.search([(np.ones(128), 1), (np.ones(128), -1)]), "cancel out"),
        (lambda library: library.search({"a.wav": "much"}), "weight of 'a.wav' is 'much'"),
        (lambda library: library.search(np.ones(128), effort=2), "effort is 2"),
        (lambda library: library.search(np.ones(128), effort=True), "effort is True"),
        (lambda library: library.search(np.ones(128), label=3), "label is 3"),
        (lambda library: library.search(("a.wav", "x")), "expected its start and end"),
        (lambda library: library.add(library.store.folder.parent, threads=0, retry=True), "threads is 0"),
        (lambda library: library.add(None), "no sounds in None"),
        (lambda library: SoundLibrary.open(""), "The library is ''"),
        (lambda library: library.add("/no/such/folder"), "'/no/such/folder' is not there"),
        (lambda library: SoundLibrary.create(library.store.folder, library.encoder), "already holds a library"),
        (lambda library: SoundLibrary.create(__file__, library.encoder), "is a file, or inside one, and no library"),
        (lambda library: SoundLibrary.create("x.library", library.encoder, hop_seconds=0), "at least 0.01 s"),
        (lambda library: SoundLibrary.create("x.library", library.encoder, hop_seconds="x"), "at least 0.01 s"),
        (lambda library: SoundLibrary.open("/no/such/library"), "holds no library"),
    ],
)
def test_a_mistake_is_one_sentence(library, ask, words):
    with pytest.raises(UserError, match=words) as caught:
        ask(library)
    assert "\n" not in str(caught.value) and isinstance(caught.value, UserError)
    assert len(SoundLibrary.open(library.store.folder)) == 12


def test_unreadable_files_do_not_pile_up_in_the_delta(encoder, tmp_path, monkeypatch):
    """Their records are merged as those of sounds are; the index, in which nothing has changed, is kept."""
    monkeypatch.setattr(writer, "SOUNDS_IN_A_FILE", 8)
    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "tone.wav", np.sin(np.arange(16000) * 0.1), 16000)
    library = SoundLibrary.create(tmp_path / "library", encoder)
    library.add([folder], progress=False)
    library.merge()
    index = library.store.manifest()["index"]
    for number in range(20):
        (folder / f"{number}.txt").write_text(str(number))
    assert len(library.add([folder], progress=False).problems) == 20
    manifest = library.store.manifest()
    assert manifest["delta"] == [] and manifest["index"] == index
    assert len(library.problems) == 20 and len(SoundLibrary.open(tmp_path / "library", encoder).problems) == 20


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_library_that_cannot_be_read_is_not_called_damaged(library, monkeypatch, code):
    def fails(*arguments, **options):
        raise OSError(code, os.strerror(code))

    for place in ("pathlib.Path.read_text", "pyarrow.parquet.ParquetFile.read", "cochlea_sb.index.storage.read_array"):
        library.merge()
        with monkeypatch.context() as patch:
            patch.setattr(place, fails)
            with pytest.raises(UserError, match=os.strerror(code)) as caught:
                SoundLibrary.open(library.store.folder)
        assert "damaged" not in str(caught.value)


def test_what_cannot_be_looked_at_is_not_gone(library, monkeypatch):
    real = os.stat

    def stat(path, *arguments, **options):
        if str(path).endswith("tone0.wav"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        if str(path).endswith("tone1.wav"):
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    assert [os.path.basename(path) for path in library.prune()] == ["tone1.wav"]


def test_a_folder_that_cannot_be_listed_is_a_problem(encoder, folder, tmp_path, monkeypatch):
    real = os.scandir

    def scandir(path):
        if os.path.basename(path) == "noise":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    access = os.access
    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("noise") and access(path, mode))
    added = SoundLibrary.create(tmp_path / "library", encoder).add(folder, progress=False)
    assert set(added.problems) == {str(folder / "noise"), str(folder / "broken.wav")}
    assert "the folder cannot be listed (Permission denied)" in added.problems[str(folder / "noise")]


def test_one_odd_file_does_not_end_the_run(encoder, folder, tmp_path, monkeypatch, caplog):
    os.utime(folder / "tone" / "tone0.wav", ns=(1, 13_600_000_000 * 10**9))  # in the year 2400
    real = batch.read_audio

    def odd(source, *arguments, **options):
        if str(source).endswith("tone1.wav"):
            raise ZeroDivisionError("never seen before")
        return real(source, *arguments, **options)

    monkeypatch.setattr(batch, "read_audio", odd)
    library = SoundLibrary.create(tmp_path / "library", encoder)
    added = library.add(folder, progress=False)
    assert set(added.problems) == {str(folder / "tone" / "tone1.wav"), str(folder / "broken.wav")}
    assert "ZeroDivisionError: never seen before" in added.problems[str(folder / "tone" / "tone1.wav")]
    assert "Traceback" in caplog.text
    assert library.add(folder, progress=False).added == 0


def test_numbers_of_any_kind_in_a_query(library, folder):
    path = str(folder / "tone" / "tone0.wav")
    wanted = library.search((path, 0.1, 0.5), 1)
    assert library.search((path, np.float32(0.1), np.float64(0.5)), 1)[0].path == wanted[0].path
    assert library.search((path, Fraction(1, 10), Fraction(1, 2)), 1) == wanted
    assert library.search({path: np.float64(1e29)}, 1)[0].path == library.search({path: 1}, 1)[0].path
    for weight in (1e300, -1e31, 10**400, float("inf"), float("nan"), True, "1"):
        with pytest.raises(UserError, match="The weight of .* expected one from -1e.30 to 1e.30"):
            library.search([(path, weight), (path, 1)] if not isinstance(weight, str) else {path: weight})


@pytest.mark.parametrize("second", [10**400, float("nan"), float("inf"), True, "0", 1j])
def test_seconds_that_are_no_seconds(library, folder, second):
    path = str(folder / "tone" / "tone0.wav")
    for part in ((second,), (0, second)):
        with pytest.raises(UserError, match="expected its start and end in seconds"):
            library.search((path, *part))


def test_names_that_are_not_utf8(encoder, folder, tmp_path):
    """Indexed with their folder, searched with, found, kept by `prune` and removed, as all others."""
    odd = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")
    shutil.copy(folder / "tone" / "tone0.wav", odd)
    library = SoundLibrary.create(tmp_path / "library", encoder)
    assert set(library.add([folder], progress=False).problems) == {str(folder / "broken.wav")}
    assert library.add([folder], progress=False).added == 0
    assert library.search(str(folder / "tone" / "tone0.wav"), 1)[0].path == odd
    assert all(match.path != odd for match in library.search(odd, 30))
    assert library.prune() == []
    assert library.remove(odd) == 1 and library.add([odd], progress=False).added == 1
    os.remove(odd)
    assert len(library.prune()) == 1


@pytest.fixture
def deep_folder(tmp_path):
    """Nested folders whose path is long, and deeper than Python can recurse; the outermost first."""
    made = [tmp_path / "sounds"]
    for name in ["x" * 200] * 6 + ["d"] * 1000:
        made[-1].mkdir()
        made.append(made[-1] / name)
    yield made[:-1]
    for folder in reversed(made[:-1]):  # shutil.rmtree, with which pytest tidies up, recurses
        (folder / "tone.wav").unlink(missing_ok=True)
        folder.rmdir()


def test_long_paths_and_deep_folders(encoder, tmp_path, deep_folder):
    files = [deep_folder[at] / "tone.wav" for at in (3, 7, -1)]
    for number, file in enumerate(files):
        soundfile.write(open(file, "wb"), tone(200 + 100 * number), 16000, format="WAV")
    library = SoundLibrary.create(tmp_path / "a.library", encoder)
    assert library.add(deep_folder[0], progress=False) == (3, 0, {}, 0)
    assert library.search(files[-1], 3, with_query=True)[0].path == str(files[-1])
    assert library.remove(deep_folder[7]) == 2


def test_the_same_sound_in_other_files_is_found_and_takes_are_not(library, folder, monkeypatch):
    monkeypatch.setattr(duplicates, "SIMILAR", 0.3)  # the encoder of the tests is not trained
    wav, _ = soundfile.read(folder / "noise" / "noise1.wav")
    (folder / "copies").mkdir()
    soundfile.write(folder / "copies" / "level.flac", 0.3 * wav, 16000, subtype="PCM_24")
    soundfile.write(folder / "copies" / "late.wav", np.concatenate([np.zeros(2000), wav]), 16000)
    soundfile.write(folder / "copies" / "short.ogg", wav[: int(0.7 * len(wav))], 16000)
    other = np.random.default_rng(7).standard_normal(len(wav)) * 0.1
    soundfile.write(folder / "copies" / "another.wav", other, 16000)
    library.add(folder, progress=False)
    groups = library.duplicates(progress=False)
    assert [sorted(os.path.basename(sound.path) for sound in group) for group in groups] == [
        ["late.wav", "level.flac", "noise1.wav", "short.ogg"]
    ]
    facts = {os.path.basename(sound.path): sound for sound in groups[0]}
    assert facts["level.flac"].encoding == "PCM_24" and facts["late.wav"].sample_rate == 16000
    assert facts["late.wav"].seconds == pytest.approx(facts["noise1.wav"].seconds + 0.125)
    assert facts["noise1.wav"].size == (folder / "noise" / "noise1.wav").stat().st_size
    (folder / "copies" / "late.wav").unlink()
    assert len(library.duplicates(progress=False)[0]) == 3


def test_exports_hold_every_window_as_the_encoder_gives_it(library, encoder, folder, tmp_path):
    library.remove(folder / "tone" / "tone1.wav")
    with pytest.raises(UserError, match="because the folder '.*out' does not exist: make it first"):
        library.export(tmp_path / "out" / "windows.parquet", progress=False)
    (tmp_path / "out").mkdir()
    n_windows = library.export(tmp_path / "out" / "windows.parquet", progress=False)
    assert n_windows == library.export(tmp_path / "out" / "windows.npy", progress=False) == library.n_windows
    table = pq.read_table(tmp_path / "out" / "windows.parquet").to_pydict()
    vectors = np.load(tmp_path / "out" / "windows.npy")
    np.testing.assert_array_equal(vectors, np.array(table["embedding"], np.float32))
    with open(tmp_path / "out" / "windows.csv", newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["path"] for row in rows] == table["path"] and [row["label"] for row in rows] == table["label"]
    assert [float(row["start_seconds"]) for row in rows] == table["start_seconds"]
    assert str(folder / "tone" / "tone1.wav") not in table["path"]
    for path in sorted(set(table["path"])):
        own = [place for place, other in enumerate(table["path"]) if other == path]
        expected, seconds = encoder.encode_windows(path, library.hop_seconds)[0].numpy(), len(read_audio(path)) / 16000
        np.testing.assert_allclose(vectors[own], expected, atol=1e-5)
        assert [table["start_seconds"][place] for place in own] == [round(0.48 * k, 6) for k in range(len(own))]
        assert table["end_seconds"][own[-1]] == pytest.approx(min(0.48 * (len(own) - 1) + 0.96, seconds))
    assert sorted(os.listdir(tmp_path / "out")) == ["windows.csv", "windows.npy", "windows.parquet"]
    with pytest.raises(UserError, match="has the suffix '.txt': expected .parquet, or .npy"):
        library.export(tmp_path / "a.txt")


def test_marks_rank_a_library(library, folder):
    tones, noises = ([str(folder / kind / f"{kind}{n}.wav") for n in range(6)] for kind in ("tone", "noise"))
    ranked = library.rank(tones[:2], noises[:2], k=20)
    assert {match.path for match in ranked} == set(tones[2:] + noises[2:])
    assert {match.path for match in ranked[:4]} == set(tones[2:]) and ranked[0].score > 0.5 > ranked[-1].score
    assert library.rank(tones[:2], noises[:2], k=2, skip=1) == ranked[1:3]
    assert [match.label for match in library.rank(tones[:2], label="noise", k=20)] == ["noise"] * 6
    doubts = [abs(match.score - 0.5) for match in library.rank(tones[:2], noises[:2], k=3, doubtful=True)]
    assert doubts == sorted(doubts) and len(doubts) == 3
    assert doubts[0] == pytest.approx(min(abs(match.score - 0.5) for match in ranked), abs=1e-6)
    for yes, no, words in (
        ([], tones, "No sound is marked with yes"),
        (tones[:1], tones[:1], "with yes and with no"),
        (["nowhere.wav"], [], "'nowhere.wav' is no sound of the library"),
        (tones + noises, [], "nothing to rank"),
    ):
        with pytest.raises(UserError, match=words):
            library.rank(yes, no)


def test_a_search_that_finds_nothing_folds_nothing(library, folder):
    assert library.search(folder / "tone" / "tone0.wav", words="nowhere", fold_copies=True, per_folder=1) == []


def test_a_name_that_is_not_utf8_is_exported_and_compared(encoder, folder, tmp_path):
    odd = os.fsencode(folder / "tone") + b"/bad\xff.wav"
    shutil.copy(folder / "tone" / "tone0.wav", odd)
    library = SoundLibrary.create(tmp_path / "odd.library", encoder)
    library.add(folder, progress=False)
    (group,) = library.duplicates(progress=False)
    assert {os.fsencode(one.path) for one in group} == {odd, os.fsencode(folder / "tone" / "tone0.wav")}
    assert {one.encoding for one in group} == {"PCM_16"}
    library.export(tmp_path / "a.parquet", progress=False)
    assert f"{folder}/tone/bad\\xff.wav" in pq.read_table(tmp_path / "a.parquet")["path"].to_pylist()


def test_alike_bass_drums_are_no_duplicates():
    seconds = np.arange(8000) / 16000
    one, other = (np.exp(-12 * seconds) * np.sin(2 * np.pi * hertz * seconds) for hertz in (50.0, 51.0))
    assert np.corrcoef(one, other)[0, 1] > 0.9
    assert not duplicates.are_the_same(one, other) and duplicates.are_the_same(one, 0.5 * np.pad(one, (90, 0)))


def test_copies_replace_no_file(folder, tmp_path):
    files = [str(folder / "tone" / "tone0.wav"), str(folder / "noise" / "noise0.wav"), "dataset:a#0"]
    target = tmp_path / "taken"
    assert copy_to(target, files) == copy_to(target, files[:1] + files[2:]) == ["dataset:a#0"]
    assert sorted(os.listdir(target)) == ["noise0.wav", "tone0 (2).wav", "tone0.wav"]
    assert (target / "tone0 (2).wav").read_bytes() == (folder / "tone" / "tone0.wav").read_bytes()
    with pytest.raises(UserError, match="can't be written"):
        copy_to(files[0], files)


def test_regions_are_named_by_words_that_set_them_apart():
    rng = np.random.default_rng(0)
    places = np.concatenate([rng.uniform(0, 0.4, (30, 2)), rng.uniform(0.6, 1, (30, 2))])
    paths = [f"/my sounds/pack {n}/kick_{n}.wav" for n in range(30)] + [f"/my sounds/x/Hat {n}.wav" for n in range(30)]
    named = regions(places, paths, squares=[2])
    assert [(region.name, region.level) for region in named] in ([("kick", 0), ("hat", 0)], [("pack", 0), ("hat", 0)])
    assert named[0].x < 0.4 and named[1].y > 0.6
    assert regions(places, ["/a/sound.wav"] * 60) == []  # the word of all paths names nothing


def test_alike_sounds_lie_close_on_the_map(library):
    state = library._state
    rows = np.flatnonzero(state.readable)
    places = principal_places(middle_vectors(state, rows))
    assert places.shape == (12, 2) and places.min() >= 0 and places.max() <= 1
    labels = np.array(state.sounds["label"].take(rows).to_pylist())
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    same = labels[:, None] == labels
    assert distances[same].mean() < distances[~same].mean()


def test_a_query_as_short_as_an_embedding_of_another_encoder_is_refused(library):
    for length in (17, 512):
        with pytest.raises(UserError, match=f"The query has {length} numbers: expected an embedding of "):
            library.search(np.full(length, 0.1, np.float32))
