"""Nearest neighbours by cosine, on numpy and numba alone: vectors in, nearest neighbours out; no audio.

The folder can be copied into another project and used there under any name.
"""

from .interface import build_index as build_index
from .interface import load_index as load_index
