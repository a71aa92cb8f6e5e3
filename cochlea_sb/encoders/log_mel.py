"""The baseline every learned embedding has to beat: the window's frames themselves."""

import torch

from cochlea_sb.encoders.windowed import WINDOW_FRAMES, WindowEncoder
from cochlea_sb.features import level


class FlattenedLogMel(WindowEncoder):
    """A window's log-mel values as one vector (the baseline of Jansen et al. 2017, section 4.2).

    The corpus' mean frame is subtracted: without that all windows point the same way (on ESC-10 the baseline's mAP
    falls from 0.45 to 0.36).

    Arguments
    ---------
    silence, hop_frames, level :
        As in `WindowEncoder`.
    frame_size : int
        M, number of mel bands.
    """

    def __init__(self, silence, frame_size=64, hop_frames=48, level=level):
        super().__init__(silence, hop_frames, None, level)
        self.embedding_size = WINDOW_FRAMES * frame_size
        self.register_buffer("mean", torch.zeros(frame_size))

    def embed(self, windows):
        """Flatten windows: [n, 96, M] to [n, 96 * M]."""
        return (windows - self.mean).flatten(1)

    def fit(self, bank, seed=0, progress=True):
        """Learn the mean frame of a `FrameBank`; gives the encoder back."""
        self.mean.copy_(bank.mean())
        return self
