"""Compute the frames of synthetic sources, and cache them."""

import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher

from cochlea_sb.data.frames import FRAMES_VERSION, Columns, own_cache
from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.machine import n_cores
from cochlea_sb.synthetic.sources import SOURCES_VERSION, random_source
from cochlea_sb.synthetic.waves import SAMPLE_RATE


def source_frames(
    front_end: FrontEnd,
    n_sources: int,
    *,
    num_proc: int | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
) -> datasets.Dataset:
    """Compute the frames of the sounds of random sources, in parallel, with a progress bar, and cache them.

    Every source has several sounds of up to 1.6 s. 4,000 sources take some minutes on two cores.

    Arguments
    ---------
    front_end : FrontEnd, at a sample rate of 16 kHz
    n_sources : int, at least 1
    num_proc : int, number of processes, by default the number of cores; it does not change the sounds
    cache_folder : str or Path, by default in the cache of `datasets`

    Returns
    -------
    datasets.Dataset, memory-mapped
        ``frames`` (float16, n_frames x frame_size values), ``n_frames``, and ``source``, the number of the source.
    """
    if front_end.sample_rate != SAMPLE_RATE:
        raise UserError(
            f"sample_rate is {front_end.sample_rate}: synthetic sources have {SAMPLE_RATE}; set n_sources to 0."
        )
    kind, settings = type(front_end), front_end.settings()
    key = [kind.__qualname__, sorted(settings.items()), n_sources, FRAMES_VERSION, SOURCES_VERSION]
    fingerprint = Hasher.hash(key)
    folder = Path(cache_folder or own_cache())
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"frames": datasets.List(datasets.Value("float16"))}
    columns |= {name: datasets.Value("int64") for name in ("n_frames", "source")}
    return datasets.Dataset.from_dict({"number": range(n_sources)}).map(
        frames_of_sources,
        batched=True,
        batch_size=16,
        fn_kwargs={"kind": kind, "settings": settings},
        remove_columns=["number"],
        features=datasets.Features(columns),
        num_proc=min(num_proc or n_cores(), n_sources),
        cache_file_name=str(folder / f"sources-{fingerprint}.arrow"),
        new_fingerprint=fingerprint,
        desc="Computing synthetic sources",
    )


def frames_of_sources(batch: Columns, kind: type[FrontEnd], settings: dict[str, Any]) -> Columns:
    """Compute a row for each sound of the source numbers in ``batch``."""
    torch.set_num_threads(1)  # the processes already use all cores
    front_end = kind(**settings)
    columns: Columns = {"frames": [], "n_frames": [], "source": []}
    for number in batch["number"]:
        for wave in random_source(number):
            frames = front_end(torch.from_numpy(wave)[None])[0].numpy().astype(np.float16)
            columns["frames"].append(frames.reshape(-1))
            columns["n_frames"].append(len(frames))
            columns["source"].append(number)
    return columns
