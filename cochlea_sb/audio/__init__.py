"""Decode anything, safely: a file, its bytes or a dataset row becomes a mono waveform, or one sentence says why not.

All audio enters the project here: training data, queries, libraries. `read` has the public functions, `lengths` and
`mpeg` find how much a file really holds, `libsndfile` and `ffmpeg` decode, `samples` mixes to mono, resamples and cuts
the part that was asked for.
"""

from cochlea_sb.audio.ask import AUDIO_EXTENSIONS, AudioSource, TooLong
from cochlea_sb.audio.identity import sound_hash
from cochlea_sb.audio.read import read_audio, stream_audio
from cochlea_sb.errors import AudioError

__all__ = ["AUDIO_EXTENSIONS", "AudioError", "AudioSource", "TooLong", "read_audio", "sound_hash", "stream_audio"]
