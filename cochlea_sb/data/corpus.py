"""Load a corpus as frames, and split it into training rows and held-out rows."""

import csv
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from cochlea_sb.data.frames import compute_frames, own_cache, split_readable
from cochlea_sb.data.sounds import load_sounds, real_path
from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.synthetic.library import synthetic_library


class Corpus(NamedTuple):
    """A corpus as frames.

    frames : datasets.Dataset, the readable sounds: ``path``, ``frames``, ``n_frames``, and the columns of the corpus
    problems : list of (str, str), path and reason of each unreadable sound
    """

    frames: datasets.Dataset
    problems: list[tuple[str, str]]


def load_corpus(
    front_end: FrontEnd,
    data_folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    dataset: str | None = None,
    *,
    config: str | None = None,
    split: str = "train",
    folder_labels: bool = False,
    num_proc: int | None = None,
    sounds_per_class: int = 40,
    label_column: str = "label",
    source_column: str = "source",
    keep_audio: bool = False,
) -> Corpus:
    """Load a corpus, and compute its frames if they are not in the cache.

    Arguments
    ---------
    front_end : FrontEnd
    data_folder : str or Path, or a list of them, optional, as in `load_sounds`
        The frames of each folder have their own cache. Without a folder and a dataset, the corpus is the synthetic
        library.
    dataset, config, split, folder_labels : as in `load_sounds`
    num_proc : int, number of processes, by default the number of cores
    sounds_per_class : int, size of the synthetic library
    label_column, source_column : str
        The columns to use as ``label`` and as ``source``. Sounds with the same source are parts of one recording.
    keep_audio : bool, whether to keep the undecoded column ``audio``, for `cochlea_sb.audio.read_audio`
    """
    own_cache()  # switches to a temporary cache, if necessary, before `datasets` writes to its cache
    if data_folder is None and dataset is None:
        parts = [synthetic_library(sounds_per_class, num_proc=num_proc)]
    else:
        several = data_folder is not None and not isinstance(data_folder, (str, os.PathLike))
        folders: Sequence[Any] = separate(data_folder) if several else [data_folder]
        options: dict[str, Any] = {"config": config, "split": split, "folder_labels": folder_labels}
        parts = [load_sounds(folder, dataset, **options) for folder in folders]
    sounds = datasets.concatenate_datasets(parts)  # a column that a folder lacks is None there
    frames = datasets.concatenate_datasets([compute_frames(part, front_end, num_proc=num_proc) for part in parts])
    for name, chosen in (("label", label_column), ("source", source_column)):
        if chosen != name:
            if chosen not in sounds.column_names:
                raise UserError(
                    f"{name}_column is '{chosen}': expected a column of the corpus: {', '.join(sounds.column_names)}."
                )
            values = [None if value is None else str(value) for value in sounds[chosen]]
            frames = frames.remove_columns(name) if name in frames.column_names else frames
            frames = frames.add_column(name, pa.array(values, pa.string()))
    if keep_audio:
        frames = datasets.concatenate_datasets([frames, sounds.select_columns("audio")], axis=1)
    return Corpus(*split_readable(frames))


def separate(folders: Any) -> list[Path]:
    """Return the real paths of folders; raises a UserError if there are none, or if one contains another."""
    paths = [real_path(folder) for folder in folders]
    for number, path in enumerate(paths):
        for other in paths[:number]:
            if path.is_relative_to(other) or other.is_relative_to(path):
                raise UserError(f"data_folder has both '{other}' and '{path}': expected each sound in one folder only.")
    if not paths:
        raise UserError("data_folder is an empty list: give one folder or more.")
    return paths


def hold_out(
    frames: datasets.Dataset, folds: Sequence[int | str] = (), share: float = 0.1
) -> tuple[list[int], list[int]]:
    """Split a corpus into training rows and held-out rows.

    If the column ``fold`` contains one of ``folds``, the sounds of these folds are held out. Otherwise about a
    ``share`` of the sources is held out. A hash of their names chooses the sources, so the choice stays the same when
    the corpus grows. No source is on both sides: if a source has sounds in several folds, those outside ``folds`` are
    left out. A sound without a source is its own source.

    Arguments
    ---------
    frames : datasets.Dataset, from `load_corpus`
    folds : list of int or str
    share : float in [0, 1)

    Returns
    -------
    train, held_out : list of int, rows; ``held_out`` is empty if it would have fewer than two rows

    Raises
    ------
    UserError
        If all sounds would be held out.
    """
    check_share(share)
    paths = frames["path"]
    sources = frames["source"] if "source" in frames.column_names else [None] * len(frames)
    # The name of a sound without a source is its path, or its row if it has no path.
    names = [
        f"{row}" if source is None and path == "<bytes>" else f"{path if source is None else source}"
        for row, (path, source) in enumerate(zip(paths, sources, strict=True))
    ]
    wanted = {str(fold) for fold in folds}
    in_folds = (
        [str(fold).removesuffix(".0") in wanted for fold in frames["fold"]] if "fold" in frames.column_names else []
    )
    if any(in_folds):
        out = {name for name, held in zip(names, in_folds, strict=True) if held}
    else:
        out = {name for name in names if is_in_share(name, share)}
        in_folds = [name in out for name in names]
    held_out = [row for row, held in enumerate(in_folds) if held]
    if len(held_out) < 2:
        return list(range(len(frames))), []
    train = [row for row, name in enumerate(names) if name not in out]
    if not train:
        raise UserError(f"All {len(frames)} sounds are in the held-out folds {list(folds)}: set valid_folds to others.")
    return train, held_out


def check_share(share: float) -> None:
    """Raise a `UserError` if a ``valid_share`` is out of range."""
    if not 0 <= share < 1:
        raise UserError(f"valid_share is {share}: expected a number from 0 to less than 1.")


def is_in_share(name: str, share: float) -> bool:
    """Whether a hash of ``name`` puts it among the ``share`` of all names that is held out."""
    return zlib.crc32(name.encode("utf-8", "surrogateescape")) < share * 2**32


def few_of_each(labels: Sequence[str | None], count: int, seed: int = 0) -> list[int]:
    """Draw ``count`` sounds of each label at random, or all if there are fewer.

    Arguments
    ---------
    labels : list of str or None; sounds without a label are never drawn
    count, seed : int

    Returns
    -------
    list of int, rows in ascending order

    Example
    -------
    >>> few_of_each(["dog", "rain", "dog", None], 1, seed=3)
    [1, 2]
    """
    generator = np.random.default_rng([seed, count])
    rows: list[int] = []
    for label in sorted({label for label in labels if label is not None}):
        own = [row for row, other in enumerate(labels) if other == label]
        rows += generator.choice(own, min(count, len(own)), replace=False).tolist()
    return sorted(rows)


def write_problems(problems: list[tuple[str, str]], path: str | os.PathLike[str]) -> None:
    """Write pairs of path and problem to a CSV file, if there are any."""
    if problems:
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([("path", "problem"), *problems])


def column(frames: datasets.Dataset, name: str) -> list[Any] | None:
    """Return a column as a list, or None if it does not exist or holds no value."""
    values = list(frames[name]) if name in frames.column_names else []
    return values if any(value is not None for value in values) else None
