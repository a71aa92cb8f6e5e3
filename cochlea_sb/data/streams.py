"""Read the sounds of a dataset one after another, without storing them: from the Hub, Parquet or WebDataset shards.

A pass is one reading of all sounds. Each pass has another order of the shards. Inside a shard, the order stays.
"""

import copy
import os
import traceback
import zlib
from collections.abc import Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from datasets.distributed import split_dataset_by_node

from cochlea_sb.data.corpus import check_share, is_in_share, separate
from cochlea_sb.data.frames import NO_AUDIO
from cochlea_sb.data.sounds import fetch, load_shards, walk
from cochlea_sb.errors import UserError, one_line

# `datasets` needs torchcodec to encode or decode its type Audio, even if decoding is off.
UNREAD = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
MOST_HELD_OUT = 256  # sounds
MOST_HELD_OUT_BYTES = 1 << 28
MOST_SEARCHED = 5000  # sounds that are searched for sounds to hold out


class StreamedSound(NamedTuple):
    """A sound that was not decoded yet."""

    audio: dict[str, Any]  # bytes and path
    key: int  # hash of the content: the same sound has the same key in each pass
    label: str | None
    source: str | None
    fold: str | None

    @property
    def name(self) -> str:
        """str, the path, or the key of a sound without a path."""
        return self.audio["path"] or f"sound {self.key:x}"


class SoundStream:
    """The sounds of a dataset, which are read while they are needed.

    Arguments
    ---------
    data_folder : str or Path, or a list of them, optional
        Folders of Parquet shards (``.parquet``) or of WebDataset shards (``.tar``), at any depth. In WebDataset shards,
        a ``.json`` beside an audio file holds its columns.
    dataset : str, optional, id of a dataset on the Hugging Face Hub, of any format
    config, split : str, configuration and split of the dataset
    label_column, source_column : str, columns to use as label and as source
    valid_folds : list of int or str
        Folds to hold out. If the dataset has no column ``fold``, a ``valid_share`` of the sources is held out instead.
        A hash of their names chooses them; the name of a sound without a source is its path.
    valid_share : float in [0, 1)
    seed : int, for the order of the shards

    Raises
    ------
    UserError
        If the dataset can't be opened or has no audio, or if a folder holds no shards or shards of two kinds.
    """

    def __init__(
        self,
        data_folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        dataset: str | None = None,
        *,
        config: str | None = None,
        split: str = "train",
        label_column: str = "label",
        source_column: str = "source",
        valid_folds: Sequence[int | str] = (),
        valid_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        check_share(valid_share)
        if (data_folder is None) == (dataset is None):
            raise UserError("streaming reads a data_folder or a dataset: give one of the two.")
        if data_folder is None:
            rows = fetch(str(dataset), config, split, streaming=True)
        else:
            one = isinstance(data_folder, (str, os.PathLike))
            builder, files = shards_in(separate([data_folder] if one else data_folder))
            rows = load_shards(builder, files, split, streaming=True)
        features = dict(rows.features or {})
        columns = {name: feature for name, feature in features.items() if name != "json"} | (features.get("json") or {})
        audio = [name for name, feature in features.items() if is_audio(name, feature)]
        if not audio:
            given = ", ".join(columns) or "unknown"
            raise UserError(f"'{dataset or data_folder}' has no audio column: its columns are {given}.")
        for key, column in (("label", label_column), ("source", source_column)):
            if column != key and column not in columns:
                raise UserError(f"{key}_column is '{column}': expected a column of the corpus: {', '.join(columns)}.")
        self.audio = "audio" if "audio" in audio else audio[0]
        self.rows = shuffle_shards(rows.cast_column(self.audio, UNREAD), seed)
        self.columns = {"label": label_column, "source": source_column, "fold": "fold"}
        label = columns.get(label_column)
        self.label_names = label.names if isinstance(label, datasets.ClassLabel) else None
        self.folds = {str(fold) for fold in valid_folds} if "fold" in columns else None
        self.share = valid_share

    def part(self, number: int, total: int) -> "SoundStream":
        """The part ``number`` of ``total`` parts, for a process of distributed training.

        A part has whole shards if their number is a multiple of ``total``. Otherwise each part reads all shards, and
        leaves out the sounds of the other parts.
        """
        if total == 1:
            return self
        part = copy.copy(self)
        part.rows = split_dataset_by_node(self.rows, number, total)
        return part

    @property
    def n_shards(self) -> int:
        """int, number of shards, which can be read in parallel."""
        return int(self.rows.num_shards)

    def sounds(self, number: int = 0) -> Iterator[StreamedSound]:
        """Yield the sounds of a pass. A worker of a `torch.utils.data.DataLoader` yields those of its own shards.

        Raises a UserError if a shard can't be read.
        """
        self.rows.set_epoch(number)
        try:
            for row in self.rows:
                yield self.as_sound(row)
        except Exception as error:  # the network, parsers and file systems raise exceptions of many libraries
            raise UserError(
                f"The stream could not be read further{shard_of(error)} ({one_line(error)}): mend or remove the shard, "
                "or run the same command again to continue from the last checkpoint."
            ) from error

    def as_sound(self, row: dict[str, Any]) -> StreamedSound:
        audio = row.get(self.audio) or NO_AUDIO
        row = {**row, **(row.get("json") or {})}
        facts = {key: row.get(column) for key, column in self.columns.items()}
        if self.label_names is not None and facts["label"] is not None:
            facts["label"] = self.label_names[facts["label"]] if facts["label"] >= 0 else None
        texts = {key: None if value is None else str(value) for key, value in facts.items()}
        content = audio["bytes"] or (audio["path"] or "").encode("utf-8", "surrogateescape")
        return StreamedSound(audio, len(content) << 32 | zlib.crc32(content), **texts)

    def is_held_out(self, sound: StreamedSound) -> bool:
        """Whether a sound is for validation. All passes give the same answer."""
        if self.folds is None:
            return is_in_share(sound.source or sound.name, self.share)
        return str(sound.fold).removesuffix(".0") in self.folds

    def held_out(self) -> datasets.Dataset | None:
        """Collect sounds for validation, undecoded. Returns None if there are fewer than two.

        The search ends after `MOST_SEARCHED` sounds, or when `MOST_HELD_OUT` sounds or `MOST_HELD_OUT_BYTES` are found.
        """
        found: list[dict[str, Any]] = []
        n_bytes = 0
        for number, sound in enumerate(self.sounds()):
            if number == MOST_SEARCHED or len(found) == MOST_HELD_OUT or n_bytes > MOST_HELD_OUT_BYTES:
                break
            if self.is_held_out(sound):
                found.append({"audio": sound.audio, "label": sound.label, "source": sound.source})
                n_bytes += len(sound.audio["bytes"] or b"")
        text = datasets.Value("string")
        features = datasets.Features({"audio": UNREAD, "label": text, "source": text})
        return datasets.Dataset.from_list(found, features) if len(found) > 1 else None


def shard_of(error: Exception) -> str:
    """Tell in which shard reading failed, as far as it can be told: only a variable in `datasets` names it."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        shard = frame.f_locals.get("file", frame.f_locals.get("tar_path"))
        if frame.f_code.co_name.startswith("_generate_") and isinstance(shard, str):
            return f" in '{shard}'"
    return ""


def shuffle_shards(rows: datasets.IterableDataset, seed: int) -> datasets.IterableDataset:
    """Shuffle the order of the shards, which is then another in each pass. A reader reads one shard at a time."""
    options = {"seed": seed, "buffer_size": 1}
    # Newer versions of `datasets` would read ten shards at a time, which takes ten times the memory.
    if "max_buffer_input_shards" in signature(rows.shuffle).parameters:
        options["max_buffer_input_shards"] = 1
    return rows.shuffle(**options)


def shards_in(folders: Sequence[Path]) -> tuple[str, list[str]]:
    """Return the name of the builder of `datasets`, and the shards in folders."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"data_folder is '{folder}', which is not a folder: give the folder of the shards.")
    paths = sorted(path for folder in folders for path in walk(folder)[0])
    kinds = {suffix: [path for path in paths if path.endswith(suffix)] for suffix in BUILDERS}
    kinds = {suffix: files for suffix, files in kinds.items() if files}
    if len(kinds) != 1:
        found = "shards of both kinds" if kinds else "no shards"
        given = ", ".join(f"'{folder}'" for folder in folders)
        raise UserError(
            f"{given} holds {found}: streaming expects Parquet shards (.parquet) or WebDataset shards (.tar); "
            "leave streaming out for a folder of audio files."
        )
    ((suffix, files),) = kinds.items()
    return BUILDERS[suffix], files


def is_audio(name: str, feature: Any) -> bool:
    undecoded = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    return isinstance(feature, datasets.Audio) or (undecoded and name == "audio")
