"""Train an encoder on batches of pairs, with SpeechBrain's Brain. `recipes/train.py` calls it.

A step deforms the crops of all pairs, encodes them, chooses negatives and computes the loss. A step copies no value
from the GPU to the CPU, because the GPU would then wait for Python; only the losses are copied, every 20 steps.

Axes: B pairs, D embedding dimensions, D' dimensions after the head.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import speechbrain as sb
import torch
from speechbrain.utils.distributed import run_on_main
from torch import nn
from torch.nn import functional as F

from cochlea_sb.encoders.windowed import WINDOW_FRAMES
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation import plots
from cochlea_sb.evaluation.retrieval import neighbour_recall
from cochlea_sb.files import write_text
from cochlea_sb.machine import keep_freed_memory
from cochlea_sb.training.batch import DeformedBatch, PairBatch, anchors_and_positives, deform
from cochlea_sb.training.checkpoints import History
from cochlea_sb.training.distributed import ALL, Share, gather_rows, own_share, summed, unwrapped, wrapped
from cochlea_sb.training.fit import mean_average_precision
from cochlea_sb.training.mining import MiningTally, disjoint
from cochlea_sb.training.pairs import in_proximity
from cochlea_sb.training.shared_bank import encode_sounds

READ_BACK_STEPS = 20  # steps after which the losses are copied from the GPU to the progress bar


class Predictions(NamedTuple):
    """What the encoder and the head return for the crops of a batch.

    ``embeddings`` [2 B, D] have unit norm; in training, they are the encoder's `vectors`. ``outputs`` [2 B, D'], from
    the head, are what the loss takes.
    """

    embeddings: torch.Tensor
    outputs: Any
    batch: DeformedBatch


class EmbeddingBrain(sb.Brain):  # type: ignore[misc]
    """Trains ``modules["embedding_model"]``. ``modules["head"]`` lies between the encoder's `vectors` and the loss.

    The hyperparameters are ``deformation``, ``deform_anchors`` (False: only the positives are deformed), ``distance``
    and ``miner`` (see `cochlea_sb.training.mining`), ``loss``, ``lr_schedule`` (a function that makes a torch scheduler
    from an optimizer), ``compute_features``, ``train_logger`` and ``output_folder``.

    Validation deforms only the positives. The recall@1 tells how often the nearest anchor of a deformed positive comes
    from the same group. The mAP is measured if the sounds have labels. The result of training is the last checkpoint,
    not the best in validation, so held-out labels do not influence the model.

    ``labels`` and ``sources`` describe the held-out sounds, in the order of the validation bank. ``export(encoder)``
    saves the model for inference; the main process calls it after each epoch. The other arguments are those of
    `speechbrain.Brain`.
    """

    def __init__(
        self,
        *args: Any,
        labels: Sequence[str | None] | None = None,
        sources: Sequence[str | None] | None = None,
        export: Callable[[nn.Module], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.labels, self.sources, self.export = labels, sources, export
        self.unread_losses: list[torch.Tensor] = []
        self.history, self.tally = History(), MiningTally().to(self.device)
        self.keep_in_checkpoints(history=self.history, mining_tally=self.tally)
        if self.device_type == "cpu":
            keep_freed_memory()
        else:
            torch.backends.cudnn.benchmark = True  # helps because all batches have the same shape
        for part in (self.hparams.deformation, self.hparams.loss):
            part.to(self.device)
        nearby = in_proximity(self.hparams.deformation, 1000)
        if self.hparams.deform_anchors and nearby.any() and not nearby.all():
            raise UserError(
                "deform_anchors is True and only some pairs get TemporalProximity: the anchor and the positive of a "
                "pair would get different deformations; set deform_anchors to False."
            )

    @property
    def encoder(self) -> Any:
        """WindowEncoder, without the wrappers of distributed training and of ``torch.compile``."""
        return unwrapped(self.modules.embedding_model)

    def keep_in_checkpoints(self, **objects: Any) -> None:
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(objects)

    def init_optimizers(self) -> None:
        super().init_optimizers()
        self.lr_schedule = self.hparams.lr_schedule(self.optimizer)
        self.keep_in_checkpoints(lr_schedule=self.lr_schedule)

    def _wrap_distributed(self) -> None:
        """Like SpeechBrain's method, but on CPUs without SyncBatchNorm, which torch implements only for GPUs."""
        if not (self.distributed_launch and self.device_type == "cpu"):
            super()._wrap_distributed()
            return
        for name, module in self.modules.items():
            if any(parameter.requires_grad for parameter in module.parameters()):
                self.modules[name] = wrapped(module)

    def compute_forward(self, batch: PairBatch, stage: sb.Stage) -> Predictions:
        deformed = self.deform(batch, stage)
        windows = deformed.crops[:, :WINDOW_FRAMES]
        embeddings = vectors = self.modules.embedding_model(windows)[:, 0]
        if stage != sb.Stage.TRAIN:
            vectors = F.normalize(self.encoder.vectors(self.encoder.padded(windows)).float(), dim=1)
        return Predictions(embeddings, self.project(vectors), deformed)

    def deform(self, batch: PairBatch, stage: sb.Stage) -> DeformedBatch:
        """Deform the positives, and in training also the anchors if ``deform_anchors`` is True."""
        deform_anchors = stage == sb.Stage.TRAIN and self.hparams.deform_anchors
        floor = self.hparams.compute_features.floor
        return deform(batch, self.hparams.deformation, floor, deform_anchors, self.share(stage))

    def share(self, stage: sb.Stage) -> Share:
        """Return the rows that this process encodes. Validation is short, so there each process encodes all rows."""
        return own_share() if stage == sb.Stage.TRAIN else ALL

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Apply the head: [n, D] to [n, D'], float32."""
        outputs: torch.Tensor = self.modules.head(embeddings).float()
        return outputs

    def compute_objectives(self, predictions: Predictions, batch: PairBatch, stage: sb.Stage) -> torch.Tensor:
        """Compute the loss, a scalar. Validation also stores the embeddings for `measure`."""
        if stage != sb.Stage.TRAIN:
            self.seen.append((*anchors_and_positives(predictions.embeddings), batch.groups))
        return self.objective(predictions.outputs, predictions.batch, batch.generator(1))

    def objective(self, outputs: Any, batch: DeformedBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Compute the loss of the head's outputs [2 B, D'], a scalar; ``generator`` is for the miner."""
        projections = gather_rows(F.normalize(outputs, dim=1), len(batch.groups))
        distances = self.hparams.distance(projections, projections)
        allowed = disjoint(batch.groups, batch.groups)
        negatives = self.hparams.miner(distances.detach(), batch.positive_of, allowed, generator)
        if self.modules.training:
            self.tally.add(negatives)
        loss: torch.Tensor = self.hparams.loss(distances, batch.positive_of, negatives)
        return loss

    def fit_batch(self, batch: PairBatch) -> torch.Tensor:
        """Like `speechbrain.Brain.fit_batch`, but the loss is not copied to the CPU."""
        batch = batch.on(self.device)
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        if should_step:
            self.optimizers_step()
        self.lr_schedule.step()  # once for each batch, also with gradient accumulation
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def evaluate_batch(self, batch: PairBatch, stage: sb.Stage) -> torch.Tensor:
        loss: torch.Tensor = super().evaluate_batch(batch.on(self.device), stage)
        return loss

    def update_average(self, loss: torch.Tensor, avg_loss: float) -> float:
        """Update the running mean of the loss. Training on a GPU updates it every `READ_BACK_STEPS` steps."""
        if not self.modules.training:
            mean: float = super().update_average(loss, avg_loss)
            return mean
        self.unread_losses.append(loss)
        due = self.device_type == "cpu" or self.step % READ_BACK_STEPS == 1
        return self.read_losses(avg_loss) if due else avg_loss

    def read_losses(self, avg_loss: float) -> float:
        """Add the losses since the last call to the running mean."""
        if self.unread_losses:
            losses = torch.stack(self.unread_losses).double()
            n_new = len(losses)
            self.unread_losses = []
            avg_loss += (float(losses.sum()) - n_new * avg_loss) / max(self.step, n_new)
            if not math.isfinite(avg_loss):
                raise UserError(
                    f"The loss is not a finite number around step {self.step}: use a lower learning rate (--lr), or "
                    "--precision fp32 if training uses mixed precision."
                )
        return avg_loss

    def _save_intra_epoch_ckpt(self) -> None:
        self.avg_train_loss: float = self.read_losses(self.avg_train_loss)
        super()._save_intra_epoch_ckpt()

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # anchors, positives, groups

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """After each epoch, log the figures, export the model and save a checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": self.read_losses(stage_loss)} | self.tally.shares()
            most = 8 * self.hparams.batch_size * self.step  # fitting then takes no longer than the epoch
            with self.training_ctx:
                self.encoder.eval().fit_axes(lambda count: self.draw_windows(min(count, most)))
            if self.valid_set is not None:
                return
            valid_stats = {}
        else:
            valid_stats = {"loss": float(stage_loss)} | self.measure()
        row: dict[str, Any] = {"epoch": epoch}
        for name, stats in (("train", self.train_stats), ("valid", valid_stats)):
            row |= {f"{name} {key}" if key == "loss" else key: value for key, value in stats.items()}
        self.history.rows.append(row)
        meta = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        self.hparams.train_logger.log_stats(meta, self.train_stats, valid_stats or None)
        # Export before saving: a run with its last checkpoint counts as finished, so its model must exist.
        run_on_main(self.leave_results)
        self.checkpointer.save_and_keep_only(meta={"epoch": epoch} | valid_stats, num_to_keep=1)

    def fit(self, epoch_counter: Iterable[int], train_set: Any, valid_set: Any = None, **kwargs: Any) -> None:
        """Like `speechbrain.Brain.fit`, with loaders of `PairBatch`; ``valid_set`` may be None."""
        self.valid_set: Any = None if valid_set is None else valid_set.dataset
        self.train_sampler = train_set.dataset  # SpeechBrain calls its set_epoch
        self.keep_in_checkpoints(train_loader=train_set)
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def draw_windows(self, count: int) -> torch.Tensor:
        """Draw windows of the training sounds, float32 [count, 96, M]."""
        return summed(self.train_sampler.windows(count).to(self.device))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Measure the retrieval of held-out sounds: ``recall@1``, and ``mAP`` if there are labels."""
        anchors, positives, groups = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        with self.evaluation_ctx:
            self.embeddings = encode_sounds(self.encoder, self.valid_set.bank).cpu()
        recall = {"recall@1": neighbour_recall(anchors, positives, groups)}
        return recall | mean_average_precision(self.embeddings, self.labels, self.sources)

    def leave_results(self) -> None:
        """Write the model, the figures and the pictures. Only the main process calls it."""
        if self.export is not None and not self.debug:
            self.export(self.encoder)
        folder = Path(self.hparams.output_folder)
        write_text(folder / "history.json", json.dumps(self.history.rows, indent=1) + "\n")
        with plots.pictures_where_possible():
            plots.loss_curve(self.history.rows, folder / "loss.png")
            if self.valid_set is not None:
                plots.embedding_map(self.embeddings, self.labels, folder / "embedding_map.png")
