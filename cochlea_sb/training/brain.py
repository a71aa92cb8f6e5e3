"""Training an embedding without labels: SpeechBrain's Brain over batches of pairs.

A step deforms the two crops of every pair, encodes them, chooses negatives and takes the loss. `recipes/train.py` is
the script around it. A step reads no number back from the device, which would make the device wait for Python.

Axes: B pairs, T frames, M mel bands, D embedding dimensions, D' dimensions after the head.
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

from cochlea_sb.encoders.windowed import WINDOW_FRAMES, encode_bank
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation import plots
from cochlea_sb.evaluation.retrieval import neighbour_recall
from cochlea_sb.files import write_text
from cochlea_sb.machine import keep_freed_memory
from cochlea_sb.training.batch import DeformedBatch, PairBatch, anchors_and_positives, deform
from cochlea_sb.training.checkpoints import History
from cochlea_sb.training.distributed import gather_candidates, unwrapped
from cochlea_sb.training.fit import mean_average_precision
from cochlea_sb.training.mining import MiningTally, disjoint
from cochlea_sb.training.pairs import in_proximity

READ_BACK_STEPS = 20  # how often the loss travels from a GPU to the progress bar


class Predictions(NamedTuple):
    """Embeddings of a batch.

    embeddings : torch.Tensor [2 B, D], unit norm; the anchors, then the positives
    outputs : torch.Tensor [2 B, D'], or what else the head returned
    batch : DeformedBatch
    """

    embeddings: torch.Tensor
    outputs: Any
    batch: DeformedBatch


class EmbeddingBrain(sb.Brain):  # type: ignore[misc]
    """Trains ``modules["embedding_model"]``, with ``modules["head"]`` between the embedding and the loss.

    Needs the hyperparameters ``deformation``, ``deform_anchors`` (False: only the positives are deformed),
    ``distance`` and ``miner`` (see `cochlea_sb.training.mining`), ``loss``, ``lr_schedule`` (a torch scheduler that
    lacks only its optimizer), ``compute_features``, ``train_logger`` and ``output_folder``.

    In validation the anchors stay as they are. For each deformed positive the nearest anchor is looked up (recall@1),
    and mAP is measured where the sounds have labels. Neither chooses a checkpoint: the last one is the result, so that
    held-out labels never influence the model.

    Arguments
    ---------
    labels, sources : list of str or None, optional
        Of the held-out sounds, in the order of the bank to validate on.
    export : callable, optional
        ``export(encoder)`` saves the model for inference; called after each epoch, on the main process.
    Others as in `speechbrain.Brain`.
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
            torch.backends.cudnn.benchmark = True  # all batches have one shape
        for part in (self.hparams.deformation, self.hparams.loss):
            part.to(self.device)
        nearby = in_proximity(self.hparams.deformation, 1000)
        if self.hparams.deform_anchors and nearby.any() and not nearby.all():
            raise UserError(
                "deform_anchors is True and only some pairs are in temporal proximity: anchor and positive would be "
                "deformed in different ways; set deform_anchors to False."
            )

    def keep_in_checkpoints(self, **objects: Any) -> None:
        """Save these with each checkpoint, where there are checkpoints."""
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(objects)

    def init_optimizers(self) -> None:
        """Give the optimizer its schedule."""
        super().init_optimizers()
        self.lr_schedule = self.hparams.lr_schedule(self.optimizer)
        self.keep_in_checkpoints(lr_schedule=self.lr_schedule)

    def _wrap_distributed(self) -> None:
        """As SpeechBrain does it, but on CPUs without the SyncBatchNorm that torch has for GPUs alone."""
        if not (self.distributed_launch and self.device_type == "cpu"):
            super()._wrap_distributed()
            return
        for name, module in self.modules.items():
            if any(parameter.requires_grad for parameter in module.parameters()):
                self.modules[name] = nn.parallel.DistributedDataParallel(module)

    def compute_forward(self, batch: PairBatch, stage: sb.Stage) -> Predictions:
        """Deform and encode both crops of each pair."""
        deformed = self.deform(batch, stage)
        embeddings = self.modules.embedding_model(deformed.crops[:, :WINDOW_FRAMES])[:, 0]
        return Predictions(embeddings, self.project(embeddings), deformed)

    def deform(self, batch: PairBatch, stage: sb.Stage) -> DeformedBatch:
        """See `cochlea_sb.training.batch.deform`."""
        deform_anchors = stage == sb.Stage.TRAIN and self.hparams.deform_anchors
        return deform(batch, self.hparams.deformation, self.hparams.compute_features.floor, deform_anchors)

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Apply the head: [n, D] to [n, D'], float32."""
        outputs: torch.Tensor = self.modules.head(embeddings).float()
        return outputs

    def compute_objectives(self, predictions: Predictions, batch: PairBatch, stage: sb.Stage) -> torch.Tensor:
        """The loss, a scalar. In validation the embeddings are kept for `measure`."""
        if stage != sb.Stage.TRAIN:
            self.seen.append((*anchors_and_positives(predictions.embeddings), batch.groups))
        return self.objective(predictions.outputs, predictions.batch, batch.generator(1))

    def objective(self, outputs: Any, batch: DeformedBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """The loss of a batch.

        Arguments
        ---------
        outputs : torch.Tensor [2 B, D']
            From the head.
        batch : DeformedBatch
        generator : torch.Generator, optional
            For the miner.

        Returns
        -------
        torch.Tensor, scalar
        """
        projections = F.normalize(outputs, dim=1)
        candidates = gather_candidates(projections, batch.groups)
        distances = self.hparams.distance(projections, candidates.projections)
        positives = candidates.first + batch.positive_of
        allowed = disjoint(batch.groups, candidates.groups)
        negatives = self.hparams.miner(distances.detach(), positives, allowed, generator)
        if self.modules.training:
            self.tally.add(negatives)
        loss: torch.Tensor = self.hparams.loss(distances, positives, negatives)
        return loss

    def fit_batch(self, batch: PairBatch) -> torch.Tensor:
        """As `speechbrain.Brain.fit_batch`, but the loss stays on its device."""
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        if should_step:
            self.optimizers_step()
        self.lr_schedule.step()  # one step a batch, however many batches make an update
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def update_average(self, loss: torch.Tensor, avg_loss: float) -> float:
        """Running mean of the loss, in training read back from a GPU every `READ_BACK_STEPS` steps."""
        if not self.modules.training:
            mean: float = super().update_average(loss, avg_loss)
            return mean
        self.unread_losses.append(loss)
        due = self.device_type == "cpu" or self.step % READ_BACK_STEPS == 1
        return self.read_losses(avg_loss) if due else avg_loss

    def read_losses(self, avg_loss: float) -> float:
        """Bring the running mean of the loss up to date."""
        if self.unread_losses:
            losses = torch.stack(self.unread_losses).double()
            n_new = len(losses)
            self.unread_losses = []
            avg_loss += (float(losses.sum()) - n_new * avg_loss) / max(self.step, n_new)
            if not math.isfinite(avg_loss):
                raise UserError(
                    f"The loss stopped being a number around step {self.step}: lower the learning rate (lr), or, in "
                    "mixed precision, try --precision fp32."
                )
        return avg_loss

    def _save_intra_epoch_ckpt(self) -> None:
        self.avg_train_loss: float = self.read_losses(self.avg_train_loss)
        super()._save_intra_epoch_ckpt()

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Called by `speechbrain.Brain`."""
        self.seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # anchors, positives, groups

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """At the end of an epoch: log, export and save a checkpoint."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": self.read_losses(stage_loss)} | self.tally.shares()
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
        run_on_main(self.leave_results)  # before the checkpoint: a run that counts as finished has saved its model
        self.checkpointer.save_and_keep_only(meta={"epoch": epoch} | valid_stats, num_to_keep=1)

    def fit(self, epoch_counter: Iterable[int], train_set: Any, valid_set: Any = None, **kwargs: Any) -> None:
        """As `speechbrain.Brain.fit`, for loaders of `PairBatches`; ``valid_set`` may be None."""
        self.valid_set: Any = None if valid_set is None else valid_set.dataset
        self.train_sampler = train_set.dataset  # SpeechBrain calls its set_epoch
        self.keep_in_checkpoints(train_loader=train_set)
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Retrieval of held-out sounds: ``recall@1`` of deformed crops and, where there are labels, ``mAP``."""
        anchors, positives, groups = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        with self.evaluation_ctx:
            self.embeddings = encode_bank(unwrapped(self.modules.embedding_model), self.valid_set.bank).cpu()
        recall = {"recall@1": neighbour_recall(anchors, positives, groups)}
        return recall | mean_average_precision(self.embeddings, self.labels, self.sources)

    def leave_results(self) -> None:
        """Write the model, the figures and the pictures; on the main process."""
        if self.export is not None and not self.debug:
            self.export(unwrapped(self.modules.embedding_model))
        folder = Path(self.hparams.output_folder)
        write_text(folder / "history.json", json.dumps(self.history.rows, indent=1) + "\n")
        with plots.pictures_where_possible():
            plots.loss_curve(self.history.rows, folder / "loss.png")
            if self.valid_set is not None:
                plots.embedding_map(self.embeddings, self.labels, folder / "embedding_map.png")
