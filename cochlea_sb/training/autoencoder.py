"""Train an encoder by reconstruction: a decoder reconstructs the frames of a window from its embedding alone."""

from pathlib import Path
from typing import Any

import speechbrain as sb
import torch

from cochlea_sb.encoders.windowed import WINDOW_FRAMES
from cochlea_sb.evaluation import plots
from cochlea_sb.training.batch import DeformedBatch, PairBatch, anchors_and_positives
from cochlea_sb.training.brain import EmbeddingBrain, Predictions
from cochlea_sb.training.distributed import gather_rows


class AutoencoderBrain(EmbeddingBrain):
    """Trains the encoder ``modules["embedding_model"]`` together with the decoder ``modules["decoder"]``.

    The encoder reads the deformed crop. The target of the decoder is the crop before the deformation, so the embedding
    need not encode noise. The decoder gets ``embedding * sqrt(D)``, whose values are about 1. A decoder with
    ``feed_back`` also reads the frames of the previous step. With a probability that falls from ``teacher_forcing`` to
    0 during training, these are frames of the target; otherwise they are its own output.

    Validation adds the ``relative loss``, ``loss / loss of the mean frame``, and a picture of reconstructed frames.
    """

    def compute_forward(self, batch: PairBatch, stage: sb.Stage) -> Predictions:
        """Encode the deformed crops of each pair, and reconstruct the crops.

        ``outputs`` are the reconstruction and its target, [2 B, T, M], and a mask, bool [2 B, T]: False for padding.
        """
        deformed = self.deform(batch, stage)
        clean = batch.crops.float()[:, :WINDOW_FRAMES]
        real = self.encoder.real(clean)
        longest = int(real.sum(1).max())
        rows = self.share(stage).rows
        clean, real = clean[rows], real[rows]
        crops = deformed.crops[:, :WINDOW_FRAMES].masked_fill(
            ~real[..., None], self.encoder.silence
        )  # padding without noise
        embeddings = self.modules.embedding_model(crops)[:, 0]
        real, target = real[:, :longest], self.encoder.target(clean)[:, :longest]
        done = self.optimizer_step / max(1, self.hparams.number_of_epochs * self.hparams.steps_per_epoch)
        forcing = self.hparams.teacher_forcing * max(0.0, 1 - done) if stage == sb.Stage.TRAIN else 0.0
        written = self.modules.decoder(embeddings * embeddings.shape[1] ** 0.5, target, forcing)
        return Predictions(embeddings, (written, target, real), deformed)

    def objective(self, outputs: Any, batch: DeformedBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Loss of the reconstruction, a scalar. Validation stores it for `measure`, with the loss of the mean frame."""
        loss: torch.Tensor = self.hparams.loss(*(gather_rows(part, len(batch.groups)) for part in outputs))
        if not self.modules.training:
            # Validation measures only the anchors, because it does not deform them.
            written, target, real = self.example = [anchors_and_positives(part)[0] for part in outputs]
            mean = (target * real[..., None]).sum((0, 1)) / real.sum()
            guesses = written, mean.expand_as(target)
            self.losses.append(torch.stack([self.hparams.loss(guess, target, real) for guess in guesses]))
        return loss

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        super().on_stage_start(stage, epoch)
        self.losses: list[torch.Tensor] = []

    def measure(self) -> dict[str, float]:
        loss, constant = torch.stack(self.losses).sum(0)
        return super().measure() | {"relative loss": float(loss / constant)}

    def leave_results(self) -> None:
        super().leave_results()
        if self.valid_set is not None:
            with plots.pictures_where_possible():
                written, target, real = self.example
                plots.reconstructions(written, target, real, Path(self.hparams.output_folder) / "reconstruction.png")
