"""Training by reconstruction: the embedding has to hold what a decoder needs to write the frames again."""

from pathlib import Path
from typing import Any

import speechbrain as sb
import torch

from cochlea_sb.encoders.windowed import WINDOW_FRAMES
from cochlea_sb.evaluation import plots
from cochlea_sb.training.batch import DeformedBatch, PairBatch, anchors_and_positives
from cochlea_sb.training.brain import EmbeddingBrain, Predictions
from cochlea_sb.training.distributed import unwrapped


class AutoencoderBrain(EmbeddingBrain):
    """Trains ``modules["embedding_model"]`` together with ``modules["decoder"]``, which sees the embedding alone.

    The encoder reads the deformed crop and the decoder writes the crop as it was before, so that the embedding ignores
    noise. The decoder sees the embedding scaled to components of about 1. A decoder with ``feed_back`` reads the real
    frames instead of its own at a share of its steps, which falls from ``teacher_forcing`` to 0 during training.

    Validation adds the ``relative loss``: the loss divided by that of the best constant frame.
    """

    def compute_forward(self, batch: PairBatch, stage: sb.Stage) -> Predictions:
        """Encode both crops of each pair, deformed, and write them as they were.

        Returns
        -------
        Predictions
            ``outputs`` are the frames that were written and those that were to be written, [2 B, T, M], and which of
            them are sound rather than padding, bool [2 B, T].
        """
        deformed = self.deform(batch, stage)
        encoder = unwrapped(self.modules.embedding_model)
        clean = batch.crops.float()[:, :WINDOW_FRAMES]
        real = encoder.real(clean)
        crops = deformed.crops[:, :WINDOW_FRAMES].masked_fill(~real[..., None], encoder.silence)  # no noise in padding
        embeddings = self.modules.embedding_model(crops)[:, 0]
        longest = int(real.sum(1).max())
        real, target = real[:, :longest], encoder.target(clean)[:, :longest]
        done = self.optimizer_step / max(1, self.hparams.number_of_epochs * self.hparams.steps_per_epoch)
        share = self.hparams.teacher_forcing * max(0.0, 1 - done) if stage == sb.Stage.TRAIN else 0.0
        written = self.modules.decoder(embeddings * embeddings.shape[1] ** 0.5, target, share)
        return Predictions(embeddings, (written, target, real), deformed)

    def objective(self, outputs: Any, batch: DeformedBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """The loss of the written frames, a scalar. In validation that of the best constant frame is kept beside it."""
        loss: torch.Tensor = self.hparams.loss(*outputs)
        if not self.modules.training:
            # Of the anchors, which validation doesn't deform.
            written, target, real = self.example = [anchors_and_positives(part)[0] for part in outputs]
            mean = (target * real[..., None]).sum((0, 1)) / real.sum()
            guesses = written, mean.expand_as(target)
            self.losses.append(torch.stack([self.hparams.loss(guess, target, real) for guess in guesses]))
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Called by `speechbrain.Brain`."""
        super().on_stage_start(stage, epoch)
        self.losses: list[torch.Tensor] = []

    def measure(self) -> dict[str, float]:
        """As `EmbeddingBrain.measure`, with ``relative loss``."""
        loss, constant = torch.stack(self.losses).sum(0)
        return super().measure() | {"relative loss": float(loss / constant)}

    def leave_results(self) -> None:
        """As `EmbeddingBrain.leave_results`, and a picture of held-out frames with their reconstruction."""
        super().leave_results()
        if self.valid_set is not None:
            with plots.pictures_where_possible():
                written, target, real = self.example
                plots.reconstructions(written, target, real, Path(self.hparams.output_folder) / "reconstruction.png")
