"""Training an embedding without labels: SpeechBrain's Brain over batches of crops.

A step is: deform both crops of every pair, embed them, find negatives, pull and push. `recipes/train.py` is the
script around it. Nothing in a step reads a number back from the device.

Axes: B pairs, T frames, M mel bands, D embedding dimensions, A = 2B crops of a batch.
"""

import ctypes
import json
import math
import sys
from contextlib import suppress
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import is_distributed_initialized, run_on_main
from torch.nn import functional as F

from cochlea_sb.augment.energies import energies_from_log_mel, log_mel_from_energies
from cochlea_sb.encoders.windowed import WINDOW_FRAMES, encode_bank
from cochlea_sb.errors import NothingToMeasure, UserError
from cochlea_sb.evaluation import plots
from cochlea_sb.evaluation.retrieval import neighbour_recall, query_by_example
from cochlea_sb.files import write_text
from cochlea_sb.training.checkpoints import History
from cochlea_sb.training.mining import disjoint

READ_BACK_STEPS = 20  # how often the loss travels from a GPU to the progress bar


class EmbeddingBrain(sb.Brain):
    """Trains ``modules["embedding_model"]`` on `Pairs` batches by what ``modules["head"]`` makes of it.

    The hyperparameters name the parts: ``deformation``, ``deform_anchors`` (or only the positives), ``distance`` (see
    `cochlea_sb.training.mining`), ``loss``, ``lr_schedule`` (a torch scheduler but for its optimizer),
    ``compute_features``, ``train_logger`` and ``output_folder``. Validation deforms one crop of each held-out pair,
    looks for it among the other crops (recall@1), and measures mAP where labels exist. Neither chooses a checkpoint:
    the last one is the result, so held-out labels never touch the model.

    Arguments
    ---------
    labels, sources : list of str or None, optional
        Of the held-out sounds, in the order of the validation bank.
    export : callable, optional
        Called after each epoch, on the main process: leaves the model where inference finds it.
    Others as in `speechbrain.Brain`.
    """

    def __init__(self, *args, labels=None, sources=None, export=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.labels, self.sources, self.export = labels, sources, export
        self.unread_losses = []
        self.history = History()
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("history", self.history)
        if self.device_type == "cpu":
            keep_freed_memory()
        else:
            torch.backends.cudnn.benchmark = True  # all batches have one shape
        for part in (self.hparams.deformation, self.hparams.loss):
            part.to(self.device)

    def init_optimizers(self):
        """Give the optimizer its schedule, which checkpoints with it."""
        super().init_optimizers()
        self.lr_schedule = self.hparams.lr_schedule(self.optimizer)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("lr_schedule", self.lr_schedule)

    def _wrap_distributed(self):
        """As SpeechBrain does it, but on CPUs without the SyncBatchNorm that torch has for GPUs alone."""
        if not (self.distributed_launch and self.device_type == "cpu"):
            return super()._wrap_distributed()
        for name, module in self.modules.items():
            if any(parameter.requires_grad for parameter in module.parameters()):
                self.modules[name] = torch.nn.parallel.DistributedDataParallel(module)

    def compute_forward(self, batch, stage):
        """Embed both crops of each pair, deformed.

        Arguments
        ---------
        batch : Pairs

        Returns
        -------
        embeddings : torch.Tensor [2 B, D], anchors first, unit norm
        outputs : torch.Tensor [2 B, D'], the same after the head
        parents : torch.Tensor [2 B, 2], the groups that each may hold: its own and that of the sound mixed in
        """
        frames, parents = self.deform(batch, stage)
        embeddings = self.modules.embedding_model(frames[:, :WINDOW_FRAMES])[:, 0]
        return embeddings, self.project(embeddings), parents

    def project(self, embeddings):
        """What the head makes of embeddings [n, D]: [n, D'], float32."""
        return self.modules.head(embeddings).float()

    @torch.no_grad()
    def deform(self, batch, stage):
        """Deform the crops: both in training, unless ``deform_anchors`` is off; in validation the anchors stay clean.

        Returns
        -------
        log_mel : torch.Tensor [2 B, T, M], float32
        parents : torch.Tensor [2 B, 2]
        """
        generator = torch.Generator(batch.anchors.device).manual_seed(batch.seed)
        floor = self.hparams.compute_features.floor
        groups = torch.cat([batch.groups, batch.groups])
        half = len(batch.groups)
        with torch.autocast(self.device_type, enabled=False):
            energies = energies_from_log_mel(torch.cat([batch.anchors, batch.neighbours]), floor)
            # The order of a batch is random, so a rotation mixes strangers, unless it is by half: the pairs.
            mixed_in = 1 + batch.seed % max(1, 2 * half - 2)
            mixed_in += half > 1 and mixed_in >= half
            others = energies.roll(mixed_in, 0)
            clean = 0 if stage == sb.Stage.TRAIN and self.hparams.deform_anchors else half
            deformed = self.hparams.deformation(energies[clean:], others[clean:], generator)
            frames = log_mel_from_energies(deformed, floor)
        theirs = groups.roll(mixed_in, 0)
        if clean:
            frames = torch.cat([batch.anchors.float(), frames])
            theirs[:clean] = groups[:clean]
        return frames, torch.stack([groups, theirs], dim=1)

    def compute_objectives(self, predictions, batch, stage):
        """The loss; in validation, what is embedded is kept to be measured.

        Returns
        -------
        torch.Tensor, scalar
        """
        embeddings, outputs, parents = predictions
        if stage != sb.Stage.TRAIN:
            self.seen.append((embeddings, batch.groups))
        return self.objective(outputs, parents)

    def objective(self, outputs, parents):
        """The loss of what the head made of a batch, [2 B, D'], and its parents, [2 B, 2]: scalar."""
        projections = F.normalize(outputs, dim=1)
        candidates, candidate_parents, first = gather_candidates(projections, parents)
        n = len(projections)
        # Candidates of this process start at row `first`; an anchor's positive is the other crop of its pair.
        positives = first + (torch.arange(n, device=projections.device) + n // 2) % n
        distances = self.hparams.distance(projections, candidates)
        return self.hparams.loss(distances, positives, disjoint(parents, candidate_parents))

    def fit_batch(self, batch):
        """`speechbrain.Brain.fit_batch` without its reads from the device; gives the loss where it was computed."""
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.scaler.scale(loss / self.grad_accumulation_factor).backward()
        if should_step:
            self.optimizers_step()
        self.lr_schedule.step()  # its steps are batches, however many of them make an update
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach()

    def update_average(self, loss, avg_loss):
        """Running mean of the loss, which training reads back from the device only now and then."""
        if not self.modules.training:
            return super().update_average(loss, avg_loss)
        self.unread_losses.append(loss)
        due = self.device_type == "cpu" or self.step % READ_BACK_STEPS == 1
        return self.read_losses(avg_loss) if due else avg_loss

    def read_losses(self, avg_loss):
        """Bring the running mean up to date."""
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

    def _save_intra_epoch_ckpt(self):
        self.avg_train_loss = self.read_losses(self.avg_train_loss)
        super()._save_intra_epoch_ckpt()

    def on_stage_start(self, stage, epoch=None):
        """Called by `speechbrain.Brain`."""
        self.seen = []

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log, checkpoint and export at the end of an epoch."""
        if stage == sb.Stage.TRAIN:
            self.train_loss = self.read_losses(stage_loss)
            if self.validates:
                return
            valid = {}
        else:
            valid = {"loss": float(stage_loss)} | self.measure()
        self.history.rows.append(
            {"epoch": epoch, "train loss": self.train_loss}
            | {f"valid {name}" if name == "loss" else name: value for name, value in valid.items()}
        )
        meta = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        self.hparams.train_logger.log_stats(meta, {"loss": self.train_loss}, valid or None)
        run_on_main(self.leave_results)  # before the checkpoint: a run that counts as finished has left its model
        self.checkpointer.save_and_keep_only(meta={"epoch": epoch} | valid, num_to_keep=1)

    def fit(self, epoch_counter, train_set, valid_set=None, **kwargs):
        """`speechbrain.Brain.fit` for a `PairBatches` loader, with or without one to validate on."""
        self.validates = valid_set is not None
        self.valid_bank = valid_set.dataset.bank if self.validates else None
        self.valid_groups = valid_set.dataset.groups.cpu() if self.validates else None
        self.train_sampler = train_set.dataset  # whose set_epoch the Brain calls
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("train_loader", train_set)
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    @torch.no_grad()
    def measure(self):
        """Retrieval on the held-out sounds.

        Returns
        -------
        dict
            ``recall@1`` and, where there are labels, ``mAP``; see `cochlea_sb.evaluation.retrieval`.
        """
        halves = [(*embeddings.chunk(2), sounds) for embeddings, sounds in self.seen]
        anchors, neighbours, sounds = (torch.cat(parts) for parts in zip(*halves, strict=True))
        result = {"recall@1": neighbour_recall(anchors, neighbours, sounds)}
        with self.evaluation_ctx:
            self.embeddings = encode_bank(raw_encoder(self.modules.embedding_model), self.valid_bank).cpu()
        if self.labels is not None:
            with suppress(NothingToMeasure):  # so few are held out that none has a relative among them
                result["mAP"] = query_by_example(self.embeddings, self.labels, self.sources)["mAP"]
        return result

    def leave_results(self):
        """Write the model and the pictures; on the main process."""
        if self.export is not None and not self.debug:
            self.export(raw_encoder(self.modules.embedding_model))
        folder = Path(self.hparams.output_folder)
        write_text(folder / "history.json", json.dumps(self.history.rows, indent=1) + "\n")
        with plots.pictures_where_possible():
            plots.loss_curve(self.history.rows, folder / "loss.png")
            if self.validates:
                plots.embedding_map(self.embeddings, self.labels, folder / "embedding_map.png")


class ClassifierBrain(EmbeddingBrain):
    """Trains the encoder with labels: ``modules["head"]`` gives a logit for each class, the loss is cross-entropy.

    The reference that a training without labels is held against. Groups are labels; validation adds the classifier's
    own ``accuracy`` on the held-out sounds. What the head sees is scaled to components of about 1: logits of unit
    vectors would stay too small for a softmax.
    """

    def fit(self, epoch_counter, train_set, valid_set=None, **kwargs):
        """As `EmbeddingBrain.fit`; UserError where the head has too few outputs."""
        n_labels = 1 + int(max(loader.dataset.groups.max() for loader in (train_set, valid_set) if loader is not None))
        if n_labels > self.hparams.number_of_classes:
            raise UserError(
                f"number_of_classes is {self.hparams.number_of_classes} and the corpus has {n_labels} labels: add "
                f"--number_of_classes {n_labels}."
            )
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def objective(self, outputs, parents):
        """Cross-entropy of both crops of each pair."""
        return F.cross_entropy(outputs, parents[:, 0])

    def project(self, embeddings):
        """Logits [n, classes] of embeddings [n, D]."""
        return super().project(embeddings * embeddings.shape[1] ** 0.5)

    @torch.no_grad()
    def measure(self):
        """As `EmbeddingBrain.measure`, with ``accuracy``."""
        result = super().measure()
        guesses = self.project(self.embeddings.to(self.device)).argmax(1).cpu()
        return result | {"accuracy": float((guesses == self.valid_groups).float().mean())}


class AutoencoderBrain(EmbeddingBrain):
    """Trains an encoder to say all that ``modules["decoder"]`` needs to write a sound's frames again.

    The encoder reads what ``deformation`` made of a crop, the decoder is to write the crop as it was: the code then
    says little of noise. The decoder sees the embedding alone, scaled to components of about 1, and, where it feeds
    back what was written, the real frames before as often as the yaml's ``teacher_forcing`` says at the start of
    training, never at its end. Validation adds the ``relative loss``: over that of the best frame that never changes.
    """

    def compute_forward(self, batch, stage):
        """Embed both crops of each pair, deformed, and write them as they were.

        Returns
        -------
        embeddings : torch.Tensor [2 B, D], anchors first, unit norm
        outputs : tuple of torch.Tensor
            What was written and what should have been, [2 B, T, M], and which frames are real, bool [2 B, T].
        parents : torch.Tensor [2 B, 2]
        """
        frames, parents = self.deform(batch, stage)
        encoder = raw_encoder(self.modules.embedding_model)
        clean = torch.cat([batch.anchors.float(), batch.neighbours.float()])[:, :WINDOW_FRAMES]
        real = encoder.real(clean)
        frames = frames[:, :WINDOW_FRAMES].masked_fill(~real[..., None], encoder.silence)  # noise in the padding
        embeddings = self.modules.embedding_model(frames)[:, 0]
        longest = int(real.sum(1).max())
        real, target = real[:, :longest], encoder.target(clean)[:, :longest]
        done = self.optimizer_step / max(1, self.hparams.number_of_epochs * self.hparams.steps_per_epoch)
        share = self.hparams.teacher_forcing * max(0.0, 1 - done) if stage == sb.Stage.TRAIN else 0.0
        written = self.modules.decoder(embeddings * embeddings.shape[1] ** 0.5, target, share)
        return embeddings, (written, target, real), parents

    def objective(self, outputs, parents):
        """Loss of what was written; in validation beside that of the best frame that never changes."""
        loss = self.hparams.loss(*outputs)
        if not self.modules.training:
            half = len(parents) // 2  # the anchors, which the encoder read as they were
            written, target, real = self.example = [part[:half] for part in outputs]
            mean = (target * real[..., None]).sum((0, 1)) / real.sum()
            guesses = written, mean.expand_as(target)
            self.losses.append(torch.stack([self.hparams.loss(guess, target, real) for guess in guesses]))
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Called by `speechbrain.Brain`."""
        super().on_stage_start(stage, epoch)
        self.losses = []

    def measure(self):
        """As `EmbeddingBrain.measure`, with ``relative loss``."""
        loss, constant = torch.stack(self.losses).sum(0)
        return super().measure() | {"relative loss": float(loss / constant)}

    def leave_results(self):
        """As `EmbeddingBrain.leave_results`, and a picture of held-out frames beside what was written for them."""
        super().leave_results()
        if self.validates:
            with plots.pictures_where_possible():
                plots.reconstructions(*self.example, Path(self.hparams.output_folder) / "reconstruction.png")


def fit_encoder(encoder, bank, valid_bank, output_folder, *, labels=None, sources=None, seed=0, export=None):
    """Train an encoder that needs no gradients: by its own ``fit(bank, seed)``.

    Arguments
    ---------
    encoder : WindowEncoder
        Where it should be fitted.
    bank, valid_bank : FrameBank
        To learn from, and to measure on; the latter may be None.
    output_folder : str or Path
        Where the pictures go, and ``history.json`` with the mAP, if there are labels.
    labels, sources, export :
        As in `EmbeddingBrain`.
    seed : int
    """
    encoder.eval().fit(bank, seed)
    if export is not None:
        export(encoder)
    history = {"epoch": 1}
    if valid_bank is not None:
        embeddings = encode_bank(encoder, valid_bank).cpu()
        if labels is not None:
            with suppress(NothingToMeasure):  # as in EmbeddingBrain.measure
                history["mAP"] = query_by_example(embeddings, labels, sources)["mAP"]
        with plots.pictures_where_possible():
            plots.embedding_map(embeddings, labels, Path(output_folder) / "embedding_map.png")
    write_text(Path(output_folder) / "history.json", json.dumps([history], indent=1) + "\n")


def warm_up_and_cosine(step, total_steps, warm_up_steps):
    """Share of the peak learning rate at a step: a straight line up, half a cosine down to 0.

    A function of the step alone, so that a finished run can go on with more epochs.

    Arguments
    ---------
    step, total_steps, warm_up_steps : int

    Returns
    -------
    float in [0, 1]
    """
    if step < warm_up_steps:
        return (step + 1) / warm_up_steps
    done = (step - warm_up_steps) / max(1, total_steps - warm_up_steps)
    return (1 + math.cos(math.pi * min(done, 1))) / 2


def gather_candidates(projections, parents):
    """Candidates for negatives: the batches of all processes, with gradients.

    Returns
    -------
    candidates : torch.Tensor [processes * A, D]
    parents : torch.Tensor [processes * A, 2]
    first : int
        Row at which this process' own embeddings start.
    """
    if not is_distributed_initialized():
        return projections, parents, 0
    everyone = [torch.empty_like(parents) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everyone, parents)
    first = torch.distributed.get_rank() * len(projections)
    return AllGather.apply(projections), torch.cat(everyone), first


class AllGather(torch.autograd.Function):
    """Rows of all processes; each gets back the sum of what all processes ask of its own.

    Only all_gather and all_reduce: torch's own differentiable all_gather scatters rank by rank in its backward on gloo.
    """

    @staticmethod
    def forward(ctx, rows):
        """[n, D] to [processes * n, D]."""
        everyone = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, rows.contiguous())
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx, gradient):
        """[processes * n, D] to [n, D]."""
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(gradient)
        return gradient.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()]


def raw_encoder(module):
    """The encoder inside the wrapper that distributed training puts around it."""
    return getattr(module, "module", module)


def keep_freed_memory():
    """Let glibc keep freed memory for the next step rather than hand it back to the system.

    A step on the CPU frees and takes the same few large buffers; mapping them anew each time, and having the kernel
    clear their pages, cost a third of the step where this was measured (`benchmarks/training.py`).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent where the C library isn't glibc
        if mallopt is not None:
            m_trim_threshold, m_mmap_max = -1, -4
            mallopt(m_trim_threshold, -1)
            mallopt(m_mmap_max, 0)
