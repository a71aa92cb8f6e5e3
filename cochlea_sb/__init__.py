"""cochlea_sb: search unlabelled sound by example. Public names are imported on first use, so the import is fast."""

import importlib

TYPE_CHECKING = False  # type checkers treat it as True; the import of `typing` is slow
if TYPE_CHECKING:
    from cochlea_sb.errors import AudioError as AudioError
    from cochlea_sb.index.random_projection import RandomProjectionIndex as RandomProjectionIndex
    from cochlea_sb.inference.audio_encoder import AudioEncoder as AudioEncoder
    from cochlea_sb.inference.callable_encoder import CallableEncoder as CallableEncoder
    from cochlea_sb.inference.encoder import Encoder as Encoder
    from cochlea_sb.inference.load import load_encoder as load_encoder
    from cochlea_sb.library.query import Text as Text
    from cochlea_sb.library.sound_library import SoundLibrary as SoundLibrary

__version__ = "0.1.0"
_HOMES = {
    "AudioEncoder": "cochlea_sb.inference.audio_encoder",
    "AudioError": "cochlea_sb.errors",
    "CallableEncoder": "cochlea_sb.inference.callable_encoder",
    "Encoder": "cochlea_sb.inference.encoder",
    "RandomProjectionIndex": "cochlea_sb.index.random_projection",
    "SoundLibrary": "cochlea_sb.library.sound_library",
    "Text": "cochlea_sb.library.query",
    "load_encoder": "cochlea_sb.inference.load",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'cochlea_sb' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
