"""Compute the frames of a corpus, and cache them for each front end."""

import atexit
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher

from cochlea_sb.audio import TooLong, read_audio
from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.files import as_named
from cochlea_sb.machine import n_cores

LOGGER = logging.getLogger(__name__)
FRAMES_VERSION = 1  # part of the cache key; increase it when decoding or a front end changes its output

UNCOMPRESSED = {"", ".wav", ".aif", ".aiff", ".au", ".w64", ".caf", ".flac"}
COMPRESSION = 10.0  # of MP3, Ogg and other formats
NO_AUDIO = {"bytes": None, "path": None}

Columns = dict[str, list[Any]]  # a batch of rows


def compute_frames(
    sounds: datasets.Dataset,
    front_end: FrontEnd,
    *,
    num_proc: int | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Decode every sound and compute its frames, in parallel, with a progress bar.

    Arguments
    ---------
    sounds : datasets.Dataset, from `cochlea_sb.data.sounds.load_sounds`
    front_end : FrontEnd
    num_proc : int, number of processes, by default the number of cores
    cache_folder : str or Path, by default in the cache of `datasets`

    Returns
    -------
    datasets.Dataset, memory-mapped
        ``path``, ``frames`` (float16, n_frames x frame_size values), ``n_frames``, ``problem``, and all columns of
        ``sounds`` except ``audio``. For an unreadable sound, ``problem`` is the reason and ``n_frames`` is 0.
    """
    kind, settings = type(front_end), front_end.settings()
    processes = min(num_proc or n_cores(), len(sounds))
    order = shared_out(sounds, processes)
    key = [sounds._fingerprint, kind.__qualname__, sorted(settings.items()), FRAMES_VERSION]
    fingerprint = Hasher.hash([*key, order.tolist()] if processes > 1 else key)
    folder = Path(cache_folder or own_cache())
    folder.mkdir(parents=True, exist_ok=True)
    kept = datasets.Features({name: feature for name, feature in sounds.features.items() if name != "audio"})
    features = datasets.Features(
        {
            **kept,
            "path": datasets.Value("string"),
            "frames": datasets.List(datasets.Value("float16")),
            "n_frames": datasets.Value("int64"),
            "problem": datasets.Value("string"),
        }
    )
    frames = sounds.select(order).map(
        frames_of_batch,
        batched=True,
        batch_size=16,
        writer_batch_size=16,  # bounds memory for sounds of hours
        fn_kwargs={"kind": kind, "settings": settings},
        remove_columns=["audio"],
        features=features,
        num_proc=processes,
        cache_file_name=str(folder / f"frames-{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        desc="Computing frames",
    )
    return frames.select(np.argsort(order)) if processes > 1 else frames


def shared_out(sounds: datasets.Dataset, processes: int) -> np.ndarray:
    """Order the rows so that all processes have about the same work.

    `datasets.Dataset.map` gives each process the same number of consecutive rows. In the new order, the longest sounds
    go to different processes.
    """
    if processes == 1:
        return np.arange(len(sounds))
    durations: list[float] = []
    for table in sounds.select_columns("audio").with_format("arrow").iter(1000):
        paths, contents = (pc.struct_field(table["audio"], name) for name in ("path", "bytes"))
        sizes = pc.binary_length(contents).to_pylist()
        durations += map(likely_duration, paths.to_pylist(), sizes)
    longest_first = np.argsort(-np.array(durations), kind="stable")
    return np.concatenate([longest_first[number::processes] for number in range(processes)])


def likely_duration(path: str | None, size: int | None) -> float:
    """Guess a relative duration from the suffix and the size in bytes, by default the size of the file."""
    name = as_named(path or "")
    if size is None:
        try:
            size = os.path.getsize(name)
        except (OSError, ValueError):
            return 0.0
    return size * (1.0 if os.path.splitext(name)[1].lower() in UNCOMPRESSED else COMPRESSION)


def own_cache() -> Path:
    """Return the folder of cochlea_sb in the cache of `datasets`.

    If that folder isn't writable, the cache of `datasets` becomes a temporary folder until the process ends.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "cochlea_sb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    temporary = tempfile.mkdtemp(prefix="cochlea_sb-")
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    LOGGER.warning("'%s' can't be written: frames are not kept for the next run. Set HF_HOME to keep them.", folder)
    datasets.config.HF_DATASETS_CACHE = Path(temporary)
    return Path(temporary) / "cochlea_sb"


def frames_of_batch(batch: Columns, kind: type[FrontEnd], settings: dict[str, Any]) -> Columns:
    torch.set_num_threads(1)  # the processes already use all cores
    front_end = kind(**settings)
    columns: Columns = {"path": [], "frames": [], "n_frames": [], "problem": []}
    for audio in batch["audio"]:
        audio = audio or NO_AUDIO
        frames, problem = frames_of(audio, front_end)
        columns["path"].append(audio["path"] or "<bytes>")
        columns["frames"].append(frames.reshape(-1))
        columns["n_frames"].append(len(frames))
        columns["problem"].append(problem)
    return columns


def frames_of(audio: dict[str, Any], front_end: FrontEnd) -> tuple[np.ndarray, str | None]:
    """Decode a sound and compute its frames. Returns the frames and the problem; an unreadable sound has no frames.

    Arguments
    ---------
    audio : dict, the ``bytes`` and the ``path`` of a row; one of them may be None
    front_end : FrontEnd

    Returns
    -------
    frames : np.ndarray [frames, mels], float16
    problem : str, or None if the sound was read
    """
    none = np.zeros((0, front_end.frame_size), np.float16)
    try:
        if audio["bytes"] is None and audio["path"] is None:
            raise AudioError("A row of the dataset holds no audio: expected bytes or a path.")
        named = audio["path"] and as_named(audio["path"])
        wav = read_audio({**audio, "path": named}, front_end.sample_rate)
    except TooLong as error:
        return none, f"{str(error).split(';')[0]}; cut it into shorter files."
    except AudioError as error:
        return none, str(error)
    return front_end(torch.from_numpy(wav)[None])[0].numpy().astype(np.float16), None


def split_readable(frames: datasets.Dataset) -> tuple[datasets.Dataset, list[tuple[str, str]]]:
    """Split frames of `compute_frames` into the readable sounds, and a list of (path, reason) for the others.

    Raises a UserError if no sound could be read.
    """
    counts = np.asarray(frames["n_frames"])
    problems = [(path, problem) for path, problem in zip(frames["path"], frames["problem"], strict=True) if problem]
    if not counts.any():
        raise UserError(f"None of the {len(counts)} files could be read as audio; the first: {problems[0][1]}")
    return (frames if counts.all() else frames.select(np.flatnonzero(counts))), problems
