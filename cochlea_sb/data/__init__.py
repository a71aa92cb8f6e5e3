"""Corpora: lists of sounds, cached frames, the frame bank. This file itself imports nothing."""

LIBRARY_MANIFEST = "library.json"  # marks the folder of a `SoundLibrary`; there are no sounds in it
