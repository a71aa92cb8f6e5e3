"""Nearest neighbours by random projections: signs first, exact cosines last.

The sign of a vector's product with a random normal says on which side of a hyperplane it lies; two vectors at an
angle ``a`` disagree on a share ``a / pi`` of them (Goemans & Williamson 1995; Charikar 2002). A query ranks all
vectors by the number of disagreeing signs, a few bytes each, and compares only the best of them exactly.

Axes: N vectors, Q queries, D dimensions, P planes.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np

VERSION = 1


class RandomProjectionIndex:
    """Search by cosine. Build with `build` or `load`.

    Arguments
    ---------
    vectors : np.ndarray [N, D], float32
    ids : np.ndarray [N], int64
    codes : np.ndarray [N, P / 64], uint64
        Signs of the projections.
    planes : np.ndarray [D, P], float32
        Random normals.

    Example
    -------
    >>> vectors = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    >>> index = RandomProjectionIndex.build(vectors)
    >>> scores, ids = index.query(vectors[7], k=3)
    >>> int(ids[0]), round(float(scores[0]), 5)
    (7, 1.0)
    """

    def __init__(self, vectors, ids, codes, planes):
        self.vectors, self.ids, self.codes, self.planes = vectors, ids, codes, planes

    @classmethod
    def build(cls, vectors, ids=None, *, seed=0, n_planes=256):
        """Index vectors.

        Arguments
        ---------
        vectors : np.ndarray [N, D], float
            Of any norm; they are compared by cosine. A zero vector has cosine 0 with everything.
        ids : np.ndarray [N], int, optional
            0 to N - 1 by default; each once.
        seed : int
        n_planes : int
            Signs kept of each vector, a multiple of 64: more rank better and cost memory and time.

        Returns
        -------
        RandomProjectionIndex

        Raises
        ------
        ValueError
            For another shape, NaN or infinite values, repeated ids.
        """
        if n_planes < 64 or n_planes % 64:
            raise ValueError(f"n_planes is {n_planes}: expected a multiple of 64.")
        vectors = unit_rows(vectors)
        planes = np.random.default_rng(seed).normal(size=(vectors.shape[1], n_planes)).astype(np.float32)
        empty = cls(vectors[:0], np.zeros(0, np.int64), np.zeros((0, n_planes // 64), np.uint64), planes)
        empty.add(vectors, np.arange(len(vectors)) if ids is None else ids)
        return empty

    def __len__(self):
        return len(self.ids)

    def __repr__(self):
        return f"RandomProjectionIndex({len(self)} vectors of {self.planes.shape[0]} dimensions)"

    def query(self, queries, k=10, effort=10.0):
        """The ``k`` nearest vectors by cosine.

        Arguments
        ---------
        queries : np.ndarray [D] or [Q, D], float
        k : int
        effort : float, at least 1
            ``effort * k`` candidates are compared exactly: the one knob that trades recall for speed.

        Returns
        -------
        scores : np.ndarray [k] or [Q, k], float32
            Exact cosines in descending order, ties by id; fewer columns where the index holds fewer than ``k``.
        ids : np.ndarray, int64, of the same shape
        """
        for name, value in (("k", k), ("effort", effort)):
            if value < 1:
                raise ValueError(f"{name} is {value}: expected at least 1.")
        queries = np.asarray(queries)
        unit = unit_rows(queries[None] if queries.ndim == 1 else queries, self.planes.shape[0])
        k = min(k, len(self))
        n_candidates = min(len(self), int(np.ceil(k * effort)))
        scores, ids = np.empty((len(unit), k), np.float32), np.empty((len(unit), k), np.int64)
        for row, (query, code) in enumerate(zip(unit, self.encode(unit), strict=True)):
            candidates = self.candidates(code, n_candidates)
            cosines = self.vectors[candidates] @ query
            best = np.lexsort((self.ids[candidates], -cosines))[:k]
            scores[row], ids[row] = cosines[best], self.ids[candidates[best]]
        return (scores[0], ids[0]) if queries.ndim == 1 else (scores, ids)

    def candidates(self, code, n_candidates):
        """Rows whose signs disagree least with a query's, [n_candidates]."""
        if n_candidates == len(self):
            return np.arange(len(self))
        disagreements = np.bitwise_count(self.codes ^ code).sum(1, dtype=np.int32)
        return np.argpartition(disagreements, n_candidates - 1)[:n_candidates]

    def encode(self, unit):
        """Signs of the projections, packed: [n, D] to [n, P / 64] uint64."""
        return np.packbits(unit @ self.planes > 0, axis=1).view(np.uint64)

    def add(self, vectors, ids):
        """Add vectors under new ids; arguments as in `build`."""
        unit, ids = unit_rows(vectors, self.planes.shape[0]), np.asarray(ids, np.int64)
        if ids.shape != (len(unit),):
            raise ValueError(f"ids has shape {ids.shape} for {len(unit)} vectors: expected one id for each.")
        everything = np.concatenate([self.ids, ids])
        if len(np.unique(everything)) != len(everything):
            raise ValueError("Some ids are given twice or already in the index: remove those first.")
        self.vectors = np.concatenate([self.vectors, unit])
        self.codes = np.concatenate([self.codes, self.encode(unit)])
        self.ids = everything

    def remove(self, ids):
        """Forget vectors; ids that are not in the index are ignored."""
        keep = ~np.isin(self.ids, np.asarray(ids, np.int64))
        self.vectors, self.codes, self.ids = self.vectors[keep], self.codes[keep], self.ids[keep]

    def save(self, folder):
        """Write ``.npy`` arrays and a JSON manifest; the folder appears whole or not at all.

        Arguments
        ---------
        folder : str or Path
            A folder that `save` wrote before is replaced.
        """
        folder = Path(folder)
        partial, old = (folder.with_name(f".{folder.name}.{kind}-{os.getpid()}") for kind in ("partial", "old"))
        partial.mkdir(parents=True)
        for name in ("vectors", "ids", "codes", "planes"):
            np.save(partial / f"{name}.npy", getattr(self, name))
        (partial / "index.json").write_text(json.dumps({"version": VERSION, "vectors": len(self)}))
        if folder.exists():
            os.rename(folder, old)
        os.rename(partial, folder)
        shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def load(cls, folder, mmap=True):
        """Open a folder that `save` wrote.

        Arguments
        ---------
        folder : str or Path
        mmap : bool
            Map the arrays rather than read them, so that processes share their memory.

        Raises
        ------
        ValueError
            If the folder is not an index of this version, or is damaged.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / "index.json").read_text())
            mode = "r" if mmap else None
            arrays = [
                np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
                for name in ("vectors", "ids", "codes", "planes")
            ]
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"'{folder}' is not a readable index ({error}): build it again.") from error
        if manifest.get("version") != VERSION or {len(array) for array in arrays[:3]} != {manifest.get("vectors")}:
            raise ValueError(f"'{folder}' is not an index of version {VERSION}: build it again.")
        return cls(*arrays)


def unit_rows(vectors, dimensions=None):
    """Rows scaled to norm 1 as contiguous float32; rows of zeros stay zeros."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or (dimensions is not None and vectors.shape[1] != dimensions):
        wanted = "[n, dimensions]" if dimensions is None else f"[n, {dimensions}] or [{dimensions}]"
        raise ValueError(f"vectors have shape {vectors.shape}: expected {wanted}.")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError("Some vectors hold NaN or infinite values: expected finite ones.")
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    vectors = vectors / np.where(largest > 0, largest, 1)  # first: the squares of large values overflow
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
