"""Train an encoder with labels, as a reference for training without labels."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.training.batch import DeformedBatch
from cochlea_sb.training.brain import EmbeddingBrain
from cochlea_sb.training.distributed import gather_rows


class ClassifierBrain(EmbeddingBrain):
    """Trains with cross-entropy. ``modules["head"]`` gives a logit for each class, and each group is a label.

    Validation adds the ``accuracy`` on the held-out sounds. The head gets ``embedding * sqrt(D)``, because the logits
    of unit vectors would be too small for a softmax.
    """

    def fit(self, epoch_counter: Iterable[int], train_set: Any, valid_set: Any = None, **kwargs: Any) -> None:
        """Like `EmbeddingBrain.fit`, but more labels than ``number_of_classes`` raise `UserError`."""
        if getattr(self.encoder, "principal_components", False):
            raise UserError("principal_components is True: a classifier reads the trained vectors; set it to False.")
        loaders = [loader for loader in (train_set, valid_set) if loader is not None]
        n_labels = 1 + int(max(loader.dataset.groups.max() for loader in loaders))
        if n_labels > self.hparams.number_of_classes:
            raise UserError(
                f"number_of_classes is {self.hparams.number_of_classes} and the corpus has {n_labels} labels: add "
                f"--number_of_classes {n_labels}."
            )
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def objective(self, outputs: Any, batch: DeformedBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        return F.cross_entropy(gather_rows(outputs, len(batch.groups)), batch.groups[:, 0])

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of embeddings [n, D]."""
        return super().project(embeddings * embeddings.shape[1] ** 0.5)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        result = super().measure()
        guesses = self.project(self.embeddings.to(self.device)).argmax(1).cpu()
        return result | {"accuracy": float((guesses == self.valid_set.groups.cpu()).float().mean())}
