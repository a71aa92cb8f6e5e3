"""Draw pairs from a stream of sounds."""

from typing import Any

import torch

from cochlea_sb.data.stream_bank import StreamBank
from cochlea_sb.errors import UserError
from cochlea_sb.training.batch import PairBatch
from cochlea_sb.training.distributed import collected, own_share, summed
from cochlea_sb.training.pairs import PairBatches


class StreamedPairs(PairBatches):
    """Batches of pairs of the sounds that a `StreamBank` holds. Drawing a batch takes new sounds into the bank.

    A batch depends on the steps before it, unlike a batch of `PairBatches`. An interrupted run reads the stream again
    from its start.

    In distributed training, each process has a bank of its own sounds. The rows of a batch that belong to other
    processes are 0; the batches of all processes add up to the whole batch (`PairBatch.on`).

    Arguments
    ---------
    bank : StreamBank
    batch_size, steps, seed : as in `PairBatches`
    draws_per_sound : float, above 0
        Pairs that are drawn for each new sound. A smaller number needs more sounds in a step.
    options : further arguments of `PairBatches`, except ``groups`` and ``band``
    """

    def __init__(
        self, bank: StreamBank, batch_size: int, steps: int, seed: int = 0, *, draws_per_sound: float, **options: Any
    ) -> None:
        if draws_per_sound <= 0:
            raise UserError(f"draws_per_sound is {draws_per_sound}: expected more than 0, such as 10.")
        self.stream_bank, self.draws_per_sound, self.share = bank, draws_per_sound, own_share()
        total = self.share.total
        fewest, evicted = min(collected((len(bank), bank.evicted)))
        if total > 1 and (fewest < 2 or batch_size > fewest * total):
            raise UserError(
                f"One of {total} processes holds {fewest} sounds of the stream, and a batch has {batch_size} pairs of "
                f"all processes together: expected at least 2 sounds, and one for each pair of a process; use fewer "
                "processes, a smaller --batch_size or a larger --buffer_hours."
            )
        if batch_size > fewest * total and evicted:
            raise UserError(
                f"The buffer holds {len(bank)} sounds, and a batch has {batch_size}: use a larger --buffer_hours, or a "
                "smaller --batch_size."
            )
        super().__init__(bank, batch_size, steps, seed, n_banks=total, **options)
        self.due = 0.0  # sounds to take into the bank

    def __getitem__(self, step: int) -> PairBatch:
        self.due += self.batch_size / self.share.total / self.draws_per_sound
        changed = False
        while self.due > 0 and not self.stream_bank.complete:
            self.due -= max(1, self.stream_bank.take())  # the last block of a pass may be empty
            changed = True
        if changed:
            self.make_tables(torch.arange(len(self.bank)))
        batch = super().__getitem__(step)
        if self.share.total == 1:
            return batch
        keys = self.stream_bank.sound_keys[batch.groups]  # a sound may be in two shards, and in two processes
        anchors, positives, groups = map(self.own_rows, (batch.anchors, batch.positives, keys))
        return PairBatch(anchors, positives, summed(groups), batch.seed)

    def windows(self, count: int) -> torch.Tensor:
        """Draw windows as `PairBatches.windows` does; those of other processes are 0."""
        return self.own_rows(super().windows(count))

    def own_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Set the rows of other processes to 0."""
        own = torch.zeros_like(rows)
        own[self.share.rows] = rows[self.share.rows]
        return own
