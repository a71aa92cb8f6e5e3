"""A `FrameBank` that holds the newest sounds of a stream."""

from collections import deque
from typing import NamedTuple

import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.data.stream_reader import read_blocks
from cochlea_sb.data.streams import SoundStream
from cochlea_sb.errors import UserError, one_line
from cochlea_sb.features import FrontEnd

FIRST_SOUNDS = 512  # are in the bank before training starts
MOST_PROBLEMS = 10_000  # are kept for the report


class Place(NamedTuple):
    """The rows of a sound in the bank, and the key of the sound."""

    first: int
    end: int
    key: int


class StreamReport(NamedTuple):
    """What was read of a stream up to now: numbers of sounds and frames of the first pass, and problems of any pass."""

    n_sounds: int
    n_frames: int
    problems: dict[str, str]  # the reason for each sound that can't be used


class StreamBank(FrameBank):
    """The newest sounds of a stream, in a ring: a new sound is written over the oldest ones.

    The frames of a sound stay together, so its windows keep their neighbours. A sound that is already in the bank is
    not added again, because it would be its own negative. `sound_keys`, int64 [N], tells which sounds are the same in
    the banks of several processes. A stream that fits in the bank is read once.

    Arguments
    ---------
    stream : SoundStream
    capacity : int, number of frames that the bank can hold
    front_end : FrontEnd
    device : str, a CUDA device for the bank; with another device, the bank is on the CPU

    Raises
    ------
    UserError
        Here and in `take`: if the stream breaks off, or if no sound of a whole pass can be used.
    """

    def __init__(self, stream: SoundStream, capacity: int, front_end: FrontEnd, device: str = "cpu") -> None:
        self.blocks, self.readers = read_blocks(stream, front_end)
        self.places: deque[Place] = deque()  # oldest first
        self.keys: set[int] = set()
        self.here = 0  # the row for the next frame
        self.ended = 0  # number of readers that have read all of their sounds
        self.evicted = False  # whether a sound has left the bank
        self.report = StreamReport(0, 0, {})
        device = device if torch.device(device).type == "cuda" else "cpu"  # pairs need float64, which other GPUs lack
        self.frames = torch.empty(capacity, front_end.frame_size, dtype=torch.float16, device=device)
        self.levels = torch.empty(capacity, device=device)
        self.silence, self.level, self.on_disk = front_end.silence, front_end.level, False
        self.lengths = self.ends = self.sound_keys = torch.empty(0, dtype=torch.int64, device=device)
        while len(self) < FIRST_SOUNDS and not (self.complete or self.evicted):
            self.take()

    def __repr__(self) -> str:
        n_bytes = self.frames.numel() * self.frames.element_size()
        return f"StreamBank({len(self)} sounds, room for {n_bytes / 2**20:.1f} MiB on {self.device})"

    @property
    def complete(self) -> bool:
        """bool, whether the bank holds all sounds of the stream."""
        return not self.evicted and self.ended == self.readers

    def take(self) -> int:
        """Take the next block of sounds into the bank. Returns its number of sounds, readable or not."""
        try:
            block = next(self.blocks)
        except RuntimeError as error:  # of torch
            raise UserError(
                f"A process that reads the stream has ended ({one_line(error)}): run the same command again to "
                "continue from the last checkpoint."
            ) from error
        if block.failure:
            raise UserError(block.failure)
        for name, problem in block.problems:
            self.add_problem(name, problem)
        if block.first_pass:
            read = self.report
            n_sounds, n_frames = read.n_sounds + len(block.keys), read.n_frames + len(block.frames)
            self.report = read._replace(n_sounds=n_sounds, n_frames=n_frames)
            self.ended += block.ends_pass
        for frames, key, name in zip(block.frames.split(block.lengths), block.keys, block.names, strict=True):
            if 4 * len(frames) > len(self.frames):
                self.add_problem(name, f"It has {len(frames)} frames: expected at most a quarter of --buffer_hours.")
            elif key not in self.keys:
                self.add(frames, key)
        self.lengths = torch.tensor([place.end - place.first for place in self.places], device=self.device)
        self.ends = torch.tensor([place.end for place in self.places], device=self.device)
        self.sound_keys = torch.tensor([place.key for place in self.places], device=self.device)
        if self.ended == self.readers and not self.places:
            reason = next(iter(self.report.problems.values()), "all sounds are held out, or there are none.")
            raise UserError(f"No sound of the stream can be used for training; the first reason: {reason}")
        if self.complete:
            self.blocks = iter(())  # ends the processes
        return len(block.keys) + len(block.problems)

    def add_problem(self, name: str, problem: str) -> None:
        if len(self.report.problems) < MOST_PROBLEMS:
            self.report.problems[name] = problem

    def add(self, frames: torch.Tensor, key: int) -> None:
        """Write a sound over the oldest ones."""
        capacity = len(self.frames)
        if self.here + len(frames) > capacity:
            self.evict(self.here, capacity)
            self.here = 0
        end = self.here + len(frames)
        self.evict(self.here, end)
        self.frames[self.here : end] = frames.to(self.device)
        self.levels[self.here : end] = self.level(self.frames[self.here : end])
        self.places.append(Place(self.here, end, key))
        self.keys.add(key)
        self.here = end

    def evict(self, first: int, end: int) -> None:
        """Forget the sounds that have one of the rows ``first`` to ``end``. They are the oldest ones."""
        while self.places and self.places[0].first < end and self.places[0].end > first:
            self.keys.remove(self.places.popleft().key)
            self.evicted = True

    def frame_levels(self) -> torch.Tensor:
        """Like `FrameBank.frame_levels`. Rows that hold no sound have any value."""
        return self.levels
