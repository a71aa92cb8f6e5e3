"""Decode a file, its bytes or a dataset row to a mono waveform. If this fails, one sentence gives the reason.

All audio of the project is decoded here: training data, queries and libraries. `read` has the public functions.
`lengths` and `mpeg` find how much audio a file really holds. `libsndfile` and `ffmpeg` decode. `samples` mixes to mono,
resamples, and cuts the requested part.
"""

from cochlea_sb.audio.ask import AUDIO_EXTENSIONS, AudioSource, TooLong
from cochlea_sb.audio.identity import sound_hash
from cochlea_sb.audio.read import read_audio, stream_audio
from cochlea_sb.errors import AudioError

__all__ = ["AUDIO_EXTENSIONS", "AudioError", "AudioSource", "TooLong", "read_audio", "sound_hash", "stream_audio"]
