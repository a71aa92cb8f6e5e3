"""The baseline every learned embedding has to beat: the window's log-mel frames themselves."""

import torch

from cochlea_sb.encoders.windowed import WindowEncoder


class FlattenedLogMel(WindowEncoder):
    """A window's log-mel values as one vector (the baseline of Jansen et al. 2017, section 4.2).

    Arguments
    ---------
    mean : torch.Tensor [mels]
        Mean log-mel frame of the corpus, which is subtracted: without it all windows point the same way (on ESC-10
        the baseline's mAP falls from 0.45 to 0.36).
    silence, hop_frames :
        As in `WindowEncoder`.
    """

    def __init__(self, mean, silence, hop_frames=48):
        super().__init__(silence, hop_frames)
        self.register_buffer("mean", torch.as_tensor(mean).float(), persistent=False)

    def embed(self, windows):
        """Flatten windows: [n, 96, mels] to [n, 96 * mels]."""
        return (windows - self.mean).flatten(1)
