"""Hold the frames of a corpus in several processes. Each process holds the sounds of its share.

Axes: N sounds, W windows, T frames of a crop, M mel bands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WindowEncoder, encode_bank
from cochlea_sb.errors import UserError
from cochlea_sb.features import FrontEnd
from cochlea_sb.training.distributed import Share, own_share, summed

if TYPE_CHECKING:
    import datasets


class SharedBank(FrameBank):
    """A `FrameBank` whose crops are 0 for the sounds that other processes hold.

    The crops of all processes add up to the crops of the whole corpus.

    Arguments
    ---------
    part : FrameBank, the sounds of this process: the sounds ``share.rows`` of the corpus
    lengths : torch.Tensor [N], int64, number of frames of each sound of the corpus
    share : Share
    device : str, device on which processes exchange tensors
    """

    def __init__(self, part: FrameBank, lengths: torch.Tensor, share: Share, device: str = "cpu") -> None:
        self.part, self.share, self.exchange_device = part, share, device
        self.frames, self.silence, self.level, self.on_disk = part.frames, part.silence, part.level, part.on_disk
        self.lengths = lengths.to(part.device)
        self.ends = self.lengths.cumsum(0)

    def crops(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> torch.Tensor:
        """Like `FrameBank.crops`, but 0 for the sounds of other processes."""
        own = sounds % self.share.total == self.share.number
        # A mask, because the GPU would have to tell the CPU how many crops a selection has.
        crops = self.part.crops(torch.where(own, sounds // self.share.total, 0), starts, n_frames)
        return crops.masked_fill_(~own[:, None, None], 0)

    def peaks(self, sounds: torch.Tensor, starts: torch.Tensor, n_frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Like `FrameBank.peaks`, for all windows of the corpus. All processes must call it."""
        own = sounds % self.share.total == self.share.number
        peaks = torch.stack(self.part.peaks(sounds[own] // self.share.total, starts[own], n_frames))
        everyone = torch.zeros(2, len(sounds), dtype=peaks.dtype, device=self.device)
        everyone[:, own] = peaks
        ours, loudest = summed(everyone.to(self.exchange_device)).to(self.device)
        return ours, loudest


def load_bank(
    frames: datasets.Dataset, front_end: FrontEnd, device: str = "cpu", *, max_bytes: int | None = None
) -> FrameBank:
    """Copy a dataset of frames into a bank: of all sounds, or of the sounds of this process in distributed training.

    The arguments are those of `FrameBank.from_dataset`. All processes must call it. Raises `UserError` if there are
    fewer sounds than processes.
    """
    share = own_share()
    if share.total == 1:
        return FrameBank.from_dataset(frames, front_end, device, max_bytes=max_bytes)
    if len(frames) < share.total:
        raise UserError(
            f"There are {share.total} processes, and a part of the corpus has {len(frames)} sounds: expected a sound "
            "for each process; use fewer processes."
        )
    rows = frames.select(range(*share.rows.indices(len(frames))))
    part = FrameBank.from_dataset(rows, front_end, device, max_bytes=max_bytes)
    return SharedBank(part, torch.tensor(frames["n_frames"], dtype=torch.int64), share, device)


def encode_sounds(encoder: WindowEncoder, bank: FrameBank) -> torch.Tensor:
    """Encode all sounds of a bank as `encode_bank` does. In distributed training, a process encodes its own sounds."""
    if not isinstance(bank, SharedBank):
        return encode_bank(encoder, bank)
    embeddings = encode_bank(encoder, bank.part)
    everyone = torch.zeros(len(bank), embeddings.shape[1], device=embeddings.device)
    everyone[bank.share.rows] = embeddings
    return summed(everyone)
