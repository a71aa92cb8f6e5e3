"""Training with labels: the reference that training without labels is compared with."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import functional as F

from cochlea_sb.errors import UserError
from cochlea_sb.training.batch import DeformedBatch
from cochlea_sb.training.brain import EmbeddingBrain


class ClassifierBrain(EmbeddingBrain):
    """``modules["head"]`` gives a logit for each class, and the loss is cross-entropy; the groups are labels.

    Validation adds the classifier's ``accuracy`` on the held-out sounds. The head sees the embedding scaled to
    components of about 1, because logits of unit vectors would stay too small for a softmax.
    """

    def fit(self, epoch_counter: Iterable[int], train_set: Any, valid_set: Any = None, **kwargs: Any) -> None:
        """As `EmbeddingBrain.fit`; UserError where the head has too few outputs."""
        loaders = [loader for loader in (train_set, valid_set) if loader is not None]
        n_labels = 1 + int(max(loader.dataset.groups.max() for loader in loaders))
        if n_labels > self.hparams.number_of_classes:
            raise UserError(
                f"number_of_classes is {self.hparams.number_of_classes} and the corpus has {n_labels} labels: add "
                f"--number_of_classes {n_labels}."
            )
        super().fit(epoch_counter, train_set, valid_set, **kwargs)

    def objective(self, outputs: Any, batch: DeformedBatch, generator: torch.Generator | None = None) -> torch.Tensor:
        """Cross-entropy of the logits [2 B, classes]: a scalar."""
        return F.cross_entropy(outputs, batch.groups[:, 0])

    def project(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits [n, classes] of embeddings [n, D]."""
        return super().project(embeddings * embeddings.shape[1] ** 0.5)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """As `EmbeddingBrain.measure`, with ``accuracy``."""
        result = super().measure()
        guesses = self.project(self.embeddings.to(self.device)).argmax(1).cpu()
        return result | {"accuracy": float((guesses == self.valid_set.groups.cpu()).float().mean())}
