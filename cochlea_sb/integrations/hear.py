"""Models of this package for the benchmark HEAR 2021 (Turian et al. 2022, "HEAR: Holistic Evaluation of Audio
Representations", appendix A describes the API). See docs/compare.md.

    hear-validator cochlea_sb.integrations.hear                          # checks the API
    python -m heareval.embeddings.runner cochlea_sb.integrations.hear    # runs the benchmark

Axes: B sounds, S samples, T timestamps, D embedding dimensions.
"""

import torch
import torchaudio

from cochlea_sb.data.frame_bank import FrameBank
from cochlea_sb.encoders.windowed import WINDOW_FRAMES, encode_windows
from cochlea_sb.errors import UserError
from cochlea_sb.inference.audio_encoder import AudioEncoder
from cochlea_sb.inference.sound_encoder import SHIPPED

# Allowed sample rates in Hz. torchaudio needs gigabytes of memory to resample from other rates.
RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
TIMESTAMP_SECONDS = 0.05  # the largest distance between timestamps that the API recommends


class HearModel(torch.nn.Module):
    """An encoder with the attributes of the API: ``sample_rate`` of its input in Hz, and both embedding sizes D."""

    def __init__(self, encoder: AudioEncoder, sample_rate: int | None = None) -> None:
        super().__init__()
        self.compute_features = encoder.mods.compute_features
        self.encoder = encoder.mods.embedding_model
        self.sample_rate = sample_rate or encoder.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.embedding_size

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self.encoder(self.frames(audio))
        return embeddings[:, 0]

    def frames(self, audio: torch.Tensor) -> torch.Tensor:
        """Compute frames [B, frames, mel bands] of audio [B, S]."""
        rate = self.compute_features.sample_rate
        frames: torch.Tensor = self.compute_features(torchaudio.functional.resample(audio, self.sample_rate, rate))
        return frames


def load_model(model_file_path: str = "", sample_rate: int | None = None) -> HearModel:
    """Load a model.

    Arguments
    ---------
    model_file_path : str
        A folder or ``user/name``, as in `AudioEncoder.from_hparams`; by default the model in the package.
    sample_rate : int, optional
        Sample rate of the audio in Hz, one of `RATES`; by default the rate of the model. Files of HEAR have 48000.

    Returns
    -------
    HearModel, on the CPU

    Raises
    ------
    UserError
        If the rate is not in `RATES`, or the model can't be loaded.

    Example
    -------
    >>> model = load_model()
    >>> get_scene_embeddings(torch.zeros(2, 16000), model).shape
    torch.Size([2, 128])
    >>> embeddings, timestamps = get_timestamp_embeddings(torch.zeros(2, 16000), model)
    >>> embeddings.shape, timestamps[0, :3]
    (torch.Size([2, 20, 128]), tensor([ 0., 50., 100.]))
    """
    if sample_rate is not None and sample_rate not in RATES:
        raise UserError(f"sample_rate is {sample_rate!r}: expected one of {', '.join(map(str, RATES))} Hz.")
    encoder = AudioEncoder.from_hparams(model_file_path or SHIPPED, run_opts={"device": "cpu"})
    return HearModel(encoder, sample_rate).eval()


@torch.inference_mode()
def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """Compute one embedding for each sound.

    Arguments
    ---------
    audio : torch.Tensor [B, S], float in [-1, 1]
        Its rate is ``model.sample_rate``, and it is on the device of the model.
    model : HearModel

    Returns
    -------
    torch.Tensor [B, D], float32, unit norm
    """
    embeddings: torch.Tensor = model(audio)
    return embeddings


@torch.inference_mode()
def get_timestamp_embeddings(audio: torch.Tensor, model: HearModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed the 0.96 s around each timestamp; silence pads the ends of a sound. The timestamps are 50 ms apart.

    The arguments are as in `get_scene_embeddings`.

    Returns
    -------
    embeddings : torch.Tensor [B, T, D], float32, unit norm
    timestamps : torch.Tensor [B, T], float32, in milliseconds from 0
    """
    features, encoder = model.compute_features, model.encoder
    frames = model.frames(audio)
    hop = max(1, round(TIMESTAMP_SECONDS * features.sample_rate / features.hop))  # in frames
    n_sounds, n_frames, _ = frames.shape
    lengths = torch.full((n_sounds,), n_frames, device=frames.device)
    bank = FrameBank.from_padded(frames, lengths, encoder.silence, encoder.level)
    centres = torch.arange(0, n_frames, hop, device=frames.device)  # [T]
    sounds = torch.arange(n_sounds, device=frames.device).repeat_interleave(len(centres))
    starts = (centres - WINDOW_FRAMES // 2).repeat(n_sounds)
    embeddings = torch.cat(list(encode_windows(encoder, bank, sounds, starts)))
    milliseconds = centres * (1000 * features.hop / features.sample_rate)
    return embeddings.unflatten(0, (n_sounds, -1)), milliseconds.expand(n_sounds, -1)
