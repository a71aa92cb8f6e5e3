"""Nearest neighbours by cosine, on numpy and numba alone: vectors in, nearest neighbours out; no audio."""

from cochlea_sb.index.interface import build_index as build_index
from cochlea_sb.index.interface import load_index as load_index
