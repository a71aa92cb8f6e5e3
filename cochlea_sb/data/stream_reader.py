"""Read a stream of sounds in other processes, as blocks of frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch

from cochlea_sb.data.frames import frames_of
from cochlea_sb.data.streams import SoundStream, StreamedSound
from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.machine import n_cores

MOST_READERS = 4
BLOCK_SOUNDS = 64
BLOCK_FRAMES = 100_000  # 17 minutes; a block ends with the sound that exceeds it


class Block(NamedTuple):
    """Sounds that follow one another in a stream."""

    frames: torch.Tensor  # [all_frames, mels], float16; [0] without sounds
    lengths: list[int]  # number of frames of each sound
    keys: list[int]  # `StreamedSound.key` of each sound
    names: list[str]  # `StreamedSound.name` of each sound
    problems: list[tuple[str, str]]  # name and reason of each unreadable sound
    first_pass: bool  # whether the reader reads its sounds for the first time
    ends_pass: bool  # whether the reader has read all of its sounds
    failure: str  # why the reader can't go on; empty if it can


class SoundReader(torch.utils.data.IterableDataset[Block]):
    """An endless stream of blocks, pass after pass, without the held-out sounds."""

    def __init__(self, stream: SoundStream, front_end: FrontEnd) -> None:
        settings: dict[str, Any] = front_end.settings()
        self.stream, self.front_end = stream, type(front_end)(**settings)  # a front end on the CPU

    def __iter__(self) -> Iterator[Block]:
        try:
            for number in count():
                yield from self.blocks(number)
        except UserError as error:
            yield joined([], [], True, failure=str(error))

    def blocks(self, number: int) -> Iterator[Block]:
        """Yield the blocks of a pass. The last one may be empty."""
        read: list[tuple[np.ndarray, StreamedSound]] = []
        problems: list[tuple[str, str]] = []
        n_frames = 0
        for sound in self.stream.sounds(number):
            if self.stream.is_held_out(sound):
                continue
            frames, problem = frames_of(sound.audio, self.front_end)
            if problem is not None:
                problems.append((sound.name, problem))
            else:
                read.append((frames, sound._replace(audio={"path": sound.audio["path"]})))
                n_frames += len(frames)
            if len(read) + len(problems) == BLOCK_SOUNDS or n_frames >= BLOCK_FRAMES:
                yield joined(read, problems, number == 0)
                read, problems, n_frames = [], [], 0
        yield joined(read, problems, number == 0, ends_pass=True)


def joined(
    read: list[tuple[np.ndarray, StreamedSound]],
    problems: list[tuple[str, str]],
    first_pass: bool,
    *,
    ends_pass: bool = False,
    failure: str = "",
) -> Block:
    frames = torch.from_numpy(np.concatenate([frames for frames, _ in read])) if read else torch.empty(0)
    keys, names = [sound.key for _, sound in read], [sound.name for _, sound in read]
    return Block(frames, [len(frames) for frames, _ in read], keys, names, problems, first_pass, ends_pass, failure)


def read_blocks(stream: SoundStream, front_end: FrontEnd) -> tuple[Iterator[Block], int]:
    """Start up to `MOST_READERS` processes that read a stream. Returns their blocks, and the number of processes.

    Without ``fork``, the calling process reads the stream whenever a block is taken, and the number is 1.
    """
    readers = min(MOST_READERS, n_cores(), stream.n_shards) if hasattr(os, "fork") else 0
    loader = torch.utils.data.DataLoader(
        SoundReader(stream, front_end),
        batch_size=None,
        num_workers=readers,
        prefetch_factor=1 if readers else None,
        multiprocessing_context="fork" if readers else None,
    )
    return iter(loader), max(readers, 1)
