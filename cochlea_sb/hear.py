"""Our models for the HEAR benchmark: the common API of its 2021 edition (Turian et al. 2022, "HEAR: Holistic Evaluation
of Audio Representations", appendix A).

    hear-validator cochlea_sb.hear                                       # checks that this is what it says
    python -m heareval.embeddings.runner cochlea_sb.hear --model MODEL   # the benchmark's own program

Axes: B sounds, S samples, T timestamps, D embedding dimensions.
"""

import torch

from cochlea_sb.encoders.windowed import WINDOW_FRAMES, windows_at_once
from cochlea_sb.inference import SHIPPED, AudioEncoder

TIMESTAMP_SECONDS = 0.05  # between timestamps: what the API recommends at most


class HearModel(torch.nn.Module):
    """An encoder with the attributes that the API asks for.

    Arguments
    ---------
    encoder : AudioEncoder

    Attributes
    ----------
    sample_rate : int, Hz, of the audio that the functions below take
    scene_embedding_size, timestamp_embedding_size : int, D
    """

    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.compute_features = encoder.mods.compute_features
        self.encoder = encoder.mods.embedding_model
        self.sample_rate = encoder.sample_rate
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.embedding_size

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Scene embeddings, as in `get_scene_embeddings`."""
        embeddings: torch.Tensor = self.encoder(self.compute_features(audio))
        return embeddings[:, 0]


def load_model(model_file_path: str = "") -> HearModel:
    """Load a model.

    Arguments
    ---------
    model_file_path : str
        As in `AudioEncoder.from_hparams`: a folder, or ``user/name``; by default the model that comes with the package.

    Returns
    -------
    HearModel
        On the CPU; ``.to("cuda")`` moves it.

    Example
    -------
    >>> model = load_model()
    >>> get_scene_embeddings(torch.zeros(2, 16000), model).shape
    torch.Size([2, 128])
    >>> embeddings, timestamps = get_timestamp_embeddings(torch.zeros(2, 16000), model)
    >>> embeddings.shape, timestamps[0, :3]
    (torch.Size([2, 20, 128]), tensor([ 0., 50., 100.]))
    """
    return HearModel(AudioEncoder.from_hparams(model_file_path or SHIPPED, run_opts={"device": "cpu"}))


@torch.inference_mode()
def get_scene_embeddings(audio: torch.Tensor, model: HearModel) -> torch.Tensor:
    """Embed whole sounds.

    Arguments
    ---------
    audio : torch.Tensor [B, S], float in [-1, 1]
        At the model's sample rate, on the model's device.
    model : HearModel

    Returns
    -------
    torch.Tensor [B, D], float32, unit norm
    """
    embeddings: torch.Tensor = model(audio)
    return embeddings


@torch.inference_mode()
def get_timestamp_embeddings(audio: torch.Tensor, model: HearModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed the surroundings of every 50 ms: 0.96 s around each, with silence beyond the sound's ends.

    Arguments
    ---------
    audio, model :
        As in `get_scene_embeddings`.

    Returns
    -------
    embeddings : torch.Tensor [B, T, D], float32, unit norm
    timestamps : torch.Tensor [B, T], float32
        Milliseconds, from 0 on.
    """
    features, encoder = model.compute_features, model.encoder
    frames = features(audio)
    hop = max(1, round(TIMESTAMP_SECONDS * features.sample_rate / features.hop))  # in frames
    half = WINDOW_FRAMES // 2
    padded = torch.nn.functional.pad(frames, (0, 0, half, half), value=encoder.silence)
    windows = padded.unfold(1, WINDOW_FRAMES, hop)[:, : -(-frames.shape[1] // hop)].transpose(2, 3)  # [B, T, 96, M]
    n_sounds, n_timestamps = windows.shape[:2]
    sounds = torch.arange(n_sounds * n_timestamps, device=frames.device)
    embeddings = torch.cat(
        [
            encoder(windows[block // n_timestamps, block % n_timestamps])[:, 0]
            for block in sounds.split(windows_at_once(frames.device))
        ]
    )
    milliseconds = torch.arange(n_timestamps, device=frames.device) * (1000 * hop * features.hop / features.sample_rate)
    return embeddings.unflatten(0, (n_sounds, n_timestamps)), milliseconds.expand(n_sounds, -1)
