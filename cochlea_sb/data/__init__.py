"""Corpora: lists of sounds, cached frames, the frame bank. This file itself imports nothing."""

LIBRARY_MANIFEST = "library.json"  # in the folder of every `SoundLibrary`; such folders hold no sounds
