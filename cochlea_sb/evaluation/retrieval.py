"""Query by example on labelled sounds: a model beside the raw log-mel baseline and beside chance."""

import torch
from torch.nn import functional as F

from cochlea_sb.encoders.log_mel import FlattenedLogMel
from cochlea_sb.encoders.windowed import embed_bank


def embed_all(encoder, bank, *, seed=0):
    """Embed the sounds with an encoder and with what it has to beat.

    Arguments
    ---------
    encoder : WindowEncoder
        In evaluation mode.
    bank : FrameBank
    seed : int
        Of the random embeddings.

    Returns
    -------
    dict
        torch.Tensor [sounds, D], unit norm, on the CPU, by row of the table: ``random``, ``log-mel``, ``model``.
    """
    chance = torch.randn(len(bank), 128, generator=torch.Generator().manual_seed(seed))
    return {
        "random": F.normalize(chance, dim=1),
        "log-mel": embed_bank(baseline_of(encoder, bank), bank).cpu(),
        "model": embed_bank(encoder, bank).cpu(),
    }


def baseline_of(encoder, bank):
    """The log-mel baseline with an encoder's hop, on the bank's device: `FlattenedLogMel`."""
    return FlattenedLogMel(bank.mean(), encoder.silence, encoder.hop_frames).to(bank.device)
