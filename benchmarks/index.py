#!/usr/bin/env python3
# ruff: noqa: E402
"""Compare cochlea_sb's indexes with those of other libraries: queries per second at equal recall.

The others are Annoy, FAISS, hnswlib, PyNNDescent, rabitqlib (SymphonyQG, IVF and HNSW), ScaNN, USearch and VSAG.

    pip install -e '.[bench]'
    python benchmarks/index.py [--data clustered-10k isotropic-100k] [--only random faiss] [--cache built]
    python benchmarks/index.py --embed sounds --model model --audio windows.npz  # real data; then --audio windows.npz

The other libraries are set up as their authors advise. Tuning queries select the settings of each library that no other
setting beats in both speed and recall. Then other queries measure these settings: each round times all libraries, with
one query at a time and with all queries in a batch. To compare at equal recall, log queries/s (the median over rounds)
is interpolated over recall@10. By default, each library has one core, and times are CPU seconds of all its threads.
With --all_cores, times are wall-clock seconds. The times to save an index, and to load it and answer one query, are
always wall-clock seconds. numba compiles before anything is timed.
"""

import os
import sys

ALL_CORES = "--all_cores" in sys.argv
if not ALL_CORES:  # the libraries read these variables at import
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import argparse
import gc
import inspect
import json
import pickle
import tempfile
import time
import zlib
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

THREADS = os.cpu_count() if ALL_CORES else 1
CLOCK = time.perf_counter if ALL_CORES else time.process_time
K, DIMENSIONS = 10, 128
TUNING, MEASURED = 500, 1000  # queries
LOW, HIGH = 0.7, 0.9995  # settings of recall below LOW are not measured; the first one at HIGH or above is the last
TARGETS = (0.9, 0.95, 0.99, 0.999)
PASS_SECONDS = 2  # a pass over the queries ends after about this time: slow libraries answer fewer queries


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def split(vectors):
    """Split vectors into the vectors to index, the tuning queries, and the queries to measure with."""
    return vectors[TUNING + MEASURED :], vectors[:TUNING], vectors[TUNING : TUNING + MEASURED]


def clustered(n, rng, cluster_size=500, spread=0.8, decay=0.5):
    """Clusters of log-normal sizes. All have the same shape: like learned embeddings, wide along a few directions."""
    n_clusters, n = n // cluster_size, n + TUNING + MEASURED
    shares = rng.lognormal(0, 0.75, n_clusters)
    labels = rng.choice(n_clusters, n, p=shares / shares.sum())
    centres = rng.standard_normal((n_clusters, DIMENSIONS), np.float32)
    widths = np.arange(1, DIMENSIONS + 1) ** -decay
    widths *= spread / np.sqrt((widths**2).mean())
    directions = np.linalg.qr(rng.standard_normal((DIMENSIONS, DIMENSIONS)))[0]
    shape = (widths[:, None] * directions).astype(np.float32)
    vectors = np.empty((n, DIMENSIONS), np.float32)
    for rows in np.array_split(np.arange(n), 1 + n // 100_000):
        vectors[rows] = unit(centres[labels[rows]] + rng.standard_normal((len(rows), DIMENSIONS), np.float32) @ shape)
    return split(vectors)


def manifold(n, rng, inner=24):
    """Vectors on a curved surface of ``inner`` dimensions, without clusters."""
    bend = rng.standard_normal((inner, 64), np.float32) / inner**0.5
    places = rng.standard_normal((n + TUNING + MEASURED, inner), np.float32)
    return split(unit(np.tanh(1.5 * places @ bend) @ rng.standard_normal((64, DIMENSIONS), np.float32)))


def isotropic(n, rng):
    """Vectors without any structure: the hardest case."""
    return split(unit(rng.standard_normal((n + TUNING + MEASURED, DIMENSIONS), np.float32)))


def audio(file, rng):
    """Windows of real sounds. The queries are windows of other sounds, which are not indexed."""
    with np.load(file) as arrays:
        vectors, sounds = unit(arrays["vectors"].astype(np.float32)), arrays["sounds"]
    order = rng.permutation(np.unique(sounds))
    held = np.isin(sounds, order[: max(1, len(order) // 20)])
    queries = rng.permutation(vectors[held])
    return vectors[~held], queries[:TUNING], queries[TUNING : TUNING + MEASURED]


def embed(folder, model, file, hop_seconds):
    """Embed the windows of a folder of sounds, and write the file that `audio` reads."""
    from cochlea_sb import AudioEncoder, AudioError
    from cochlea_sb.audio import AUDIO_EXTENSIONS

    encoder, vectors = AudioEncoder.from_hparams(model), []
    for path in tqdm(sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in AUDIO_EXTENSIONS)):
        try:
            vectors.append(encoder.encode_windows(path, hop_seconds=hop_seconds)[0].numpy())
        except AudioError as error:
            tqdm.write(str(error), file=sys.stderr)
    sounds = np.repeat(np.arange(len(vectors)), [len(windows) for windows in vectors])
    np.savez(file, vectors=np.concatenate(vectors), sounds=sounds)


DATA = {
    "clustered-10k": partial(clustered, 10_000),
    "clustered-100k": partial(clustered, 100_000),
    "clustered-1M": partial(clustered, 1_000_000),
    "manifold-300k": partial(manifold, 300_000),
    "isotropic-100k": partial(isotropic, 100_000),
}


def ladder(first, last, ratio=1.25):
    """Integers from ``first`` to ``last``; the quotient of neighbours is about ``ratio``."""
    steps = 1 + round(np.log(last / first) / np.log(ratio))
    return np.unique(np.geomspace(first, last, steps).round().astype(int)).tolist()


class Library:
    """The common interface of all libraries. ``index`` is the index that the library built.

    A knob is a parameter that trades speed for recall; its values start with the fastest. `searchers` takes a value of
    the knob and a value of the second knob, or None. It returns two functions: the first takes a vector and returns ids
    [K], the second takes vectors and returns ids [queries, K].
    """

    ours, knob, second_knob = False, [None], [None]

    def __init__(self, d):
        self.d, self.index, self.peer = d, None, import_module(self.module)


class RandomProjection(Library):
    name, package, module, ours = "RandomProjectionIndex", "cochlea_sb", "cochlea_sb.index.random_projection", True
    knob = [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999]  # effort

    def build(self, vectors):
        self.index = getattr(self.peer, self.name).build(vectors, seed=0)

    def searchers(self, effort=None, _=None):
        options = {"threads": None if ALL_CORES else 1} | ({} if effort is None else {"effort": effort})
        return [lambda queries: self.index.query(queries, K, **options)[1]] * 2

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index = getattr(self.peer, self.name).load(path, mmap=True)


class Exact(RandomProjection):
    name, module, knob = "ExactIndex", "cochlea_sb.index.exact", [None]


class Forest(RandomProjection):
    name, module, knob = "HyperplaneForest", "hyperplane_forest", [2**i for i in range(11)]


class Annoy(Library):
    name, package, module, knob = "Annoy", "annoy", "annoy", ladder(20, 10**7, 1.4)  # search_k

    def __init__(self, d):
        super().__init__(d)
        self.index = self.peer.AnnoyIndex(d, "angular")

    def build(self, vectors):
        self.index.set_seed(1)
        for i, vector in enumerate(vectors):
            self.index.add_item(i, vector)
        self.index.build(50, n_jobs=THREADS)

    def searchers(self, search_k, _):
        def one(vector):  # Annoy reads a list faster than an array
            return self.index.get_nns_by_vector(vector.tolist(), K, search_k)

        return one, partial(one_by_one, one)  # Annoy has no batch call

    def save(self, path):
        self.index.save(str(path))

    def load(self, path):
        self.index.load(str(path))


class Faiss(Library):
    name, package, module = "FAISS Flat", "faiss-cpu", "faiss"
    recipe, setting = "Flat", ""  # formats of `faiss.index_factory` and `faiss.ParameterSpace`

    def __init__(self, d):
        super().__init__(d)
        self.peer.omp_set_num_threads(THREADS)

    def make(self, n):
        # About 4 sqrt(n) lists, but at least 39 vectors for each list: with fewer vectors, FAISS warns.
        lists = 2 ** round(np.log2(min(4 * n**0.5, n / 39)))
        return self.peer.index_factory(self.d, self.recipe.format(lists=lists), self.peer.METRIC_INNER_PRODUCT)

    def build(self, vectors):
        self.index = self.make(len(vectors))
        self.index.train(vectors)
        self.index.add(vectors)

    def searchers(self, *knobs):
        self.peer.ParameterSpace().set_index_parameters(self.index, self.setting.format(*knobs))
        return lambda vector: self.index.search(vector[None], K)[1][0], lambda queries: self.index.search(queries, K)[1]

    def save(self, path):
        self.peer.write_index(self.index, str(path))

    def load(self, path):
        self.index = self.peer.read_index(str(path))


class FaissIVF(Faiss):
    name, recipe, setting, knob = "FAISS IVF-Flat", "IVF{lists},Flat", "nprobe={}", ladder(1, 4096)


class FaissRaBitQ(Faiss):
    # RaBitQ needs randomly rotated vectors; in FAISS, the caller adds the rotation (RR).
    name, recipe, setting = "FAISS IVF-RaBitQ", "RR,IVF{lists},RaBitQ,RFlat", "nprobe={},k_factor_rf={}"
    knob, second_knob = ladder(1, 4096), [4, 12, 40]


class FaissHNSW(Faiss):
    name, recipe, setting, knob = "FAISS HNSW", "HNSW16,Flat", "efSearch={}", ladder(K, 4096)

    def make(self, n):
        index = super().make(n)
        index.hnsw.efConstruction = 200
        return index


class FaissLSH(Faiss):
    name, setting, knob, bits = "FAISS LSH, 2 d bits", "k_factor_rf={}", ladder(1, 1000, 1.5), 2

    def make(self, n):  # not by the factory, which makes at most d bits; arguments: rotate, train thresholds
        return self.peer.IndexRefineFlat(self.peer.IndexLSH(self.d, self.bits * self.d, True, True))


class FaissLSH4(FaissLSH):
    name, bits = "FAISS LSH, 4 d bits", 4


class Hnswlib(Library):
    name, package, module, knob = "hnswlib", "hnswlib", "hnswlib", ladder(K, 4096)  # ef

    def __init__(self, d):
        super().__init__(d)
        self.index = self.peer.Index("ip", d)

    def build(self, vectors):
        self.index.init_index(len(vectors), M=16, ef_construction=200, random_seed=0)
        self.index.add_items(vectors, num_threads=THREADS)

    def searchers(self, ef, _):
        self.index.set_ef(ef)
        self.index.set_num_threads(THREADS)
        return lambda vector: self.index.knn_query(vector, K)[0][0], lambda queries: self.index.knn_query(queries, K)[0]

    def save(self, path):
        self.index.save_index(str(path))

    def load(self, path):
        self.index.load_index(str(path))


class Symphony(Library):
    name, package, module = "SymphonyQG", "rabitqlib", "rabitqlib"
    knob = ladder(K, 4096)  # ef

    def build(self, vectors):
        self.index = self.peer.SymqgIndex(self.d, 32, "l2")  # the same order for unit vectors, and faster than "ip"
        self.index.build(vectors, 200, THREADS)

    def searchers(self, ef, _):
        def many(queries):
            return self.index.search(queries, K, ef, THREADS)[0]

        return lambda vector: many(vector[None])[0], many

    def save(self, path):
        self.index.save(str(path))

    def load(self, path):
        self.index = self.peer.SymqgIndex.load(str(path))


class RabitqIVF(Symphony):
    name, knob = "RaBitQ IVF, 7 bits", ladder(1, 4096)  # cells

    def build(self, vectors):
        lists = 2 ** round(np.log2(min(4 * len(vectors) ** 0.5, len(vectors) / 39)))
        means = self.peer.RaBitQKMeans(self.d, lists, num_threads=THREADS)
        means.train(vectors)
        self.index = self.peer.IvfIndex(self.d, len(vectors), lists, 7, "l2")
        self.index.build(vectors, means.centroids, means.assignments, THREADS)

    def searchers(self, cells, _):
        def many(queries):
            return self.index.search(queries, K, cells, num_threads=THREADS)[0]

        return lambda vector: many(vector[None])[0], many

    def load(self, path):
        self.index = self.peer.IvfIndex.load(str(path))


class RabitqHNSW(Symphony):
    name = "RaBitQ HNSW, 7 bits"

    def build(self, vectors):
        means = self.peer.RaBitQKMeans(self.d, 16, num_threads=THREADS)
        means.train(vectors)
        self.index = self.peer.HnswIndex(self.d, len(vectors), 16, 200, 7, "l2")
        self.index.build(vectors, means.centroids, means.assignments, THREADS)

    def load(self, path):
        self.index = self.peer.HnswIndex.load(str(path))


class Usearch(Library):
    name, package, module, knob = "USearch, M=16", "usearch", "usearch.index", ladder(K, 4096)  # expansion

    def __init__(self, d):
        super().__init__(d)
        self.index = self.peer.Index(
            ndim=d, metric="ip", dtype="f32", connectivity=16, expansion_add=200, expansion_search=K
        )

    def build(self, vectors):
        self.index.add(np.arange(len(vectors)), vectors, threads=THREADS)

    def searchers(self, expansion, _):
        self.index.expansion_search = expansion
        return [lambda queries: self.index.search(queries, K, threads=THREADS).keys] * 2

    def save(self, path):
        self.index.save(str(path))

    def load(self, path):
        self.index.load(str(path))


class Vsag(Library):
    name, package, module, knob = "VSAG HGraph, 8 bits", "pyvsag", "pyvsag", ladder(K, 4096)  # ef

    def __init__(self, d):
        super().__init__(d)
        graph = {"base_quantization_type": "sq8", "use_reorder": True, "precise_quantization_type": "fp32"}
        graph |= {"max_degree": 32, "ef_construction": 200, "build_thread_count": THREADS}
        facts = {"dtype": "float32", "metric_type": "ip", "dim": d, "index_param": graph}
        self.peer.set_logger_off()
        self.index = self.peer.Index("hgraph", json.dumps(facts))

    def build(self, vectors):
        self.index.build(vectors.ravel(), np.arange(len(vectors)), len(vectors), self.d)

    def searchers(self, ef, _):
        options = json.dumps({"hgraph": {"ef_search": ef}})

        def one(vector):
            return self.index.knn_search(vector, K, options)[0].copy()  # VSAG frees what it returned

        return one, partial(one_by_one, one)  # VSAG has no batch call

    def save(self, path):
        self.index.save(str(path))

    def load(self, path):
        self.index.load(str(path))


class Scann(Library):
    name, package, module = "ScaNN", "scann", "scann"
    knob, second_knob = ladder(1, 2000), [30, 100, 300]  # leaves, candidates compared exactly

    def build(self, vectors):
        n = len(vectors)
        builder = self.peer.scann_ops_pybind.builder(vectors, K, "dot_product").set_n_training_threads(THREADS)
        builder.tree(round(2 * n**0.5), 10, training_sample_size=n, spherical=True, quantize_centroids=True)
        self.index = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def searchers(self, leaves, reorder):
        self.index.set_num_threads(THREADS)
        many = self.index.search_batched_parallel if ALL_CORES else self.index.search_batched
        return [lambda q, search=search: search(q, K, reorder, leaves)[0] for search in (self.index.search, many)]

    def save(self, path):
        path.mkdir(exist_ok=True)
        self.index.serialize(str(path))

    def load(self, path):
        self.index = self.peer.scann_ops_pybind.load_searcher(str(path))


class PyNNDescent(Library):
    name, package, module = "PyNNDescent", "pynndescent", "pynndescent"
    knob = np.arange(0, 0.52, 0.04).round(2).tolist()  # epsilon

    def build(self, vectors):
        # By default, a search starts in one leaf and misses clusters that the neighbour graph does not connect to it.
        options = {"n_neighbors": 30, "search_tree_leaf_budget": 8, "compressed": True, "random_state": 0}
        self.index = self.peer.NNDescent(vectors, "dot", n_jobs=THREADS, parallel_batch_queries=ALL_CORES, **options)
        self.index.prepare()

    def searchers(self, epsilon, _):
        def many(queries):
            return self.index.query(queries, K, epsilon, pre_normalized=True)[0]

        return lambda vector: many(vector[None])[0], many

    def save(self, path):
        path.write_bytes(pickle.dumps(self.index))

    def load(self, path):
        self.index = pickle.loads(path.read_bytes())


LIBRARIES = [RandomProjection, Exact, Forest, Annoy, Faiss, FaissIVF, FaissRaBitQ, FaissHNSW, FaissLSH, FaissLSH4]
LIBRARIES += [Hnswlib, Scann, PyNNDescent, Symphony, RabitqIVF, RabitqHNSW, Usearch, Vsag]


def timed(function, *arguments, clock=CLOCK):
    """The seconds of a call, and its result."""
    start = clock()
    result = function(*arguments)
    return clock() - start, result


def one_by_one(search, queries):
    return [search(query) for query in queries]


def resident_mb():
    """The resident memory of this process in MB, or NaN on systems without /proc."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if statm.exists() else float("nan")


def obtain(kind, vectors, folder):
    """A library with its index, and facts about it. ``folder`` caches the indexes of the other libraries."""
    d, path = vectors.shape[1], folder / kind.name.replace(",", "").replace(" ", "-")
    note, library, cheapest = folder / f"{path.name}.json", kind(d), (kind.knob[0], kind.second_knob[0])
    made_of = [version(kind.package), inspect.getsource(kind), zlib.crc32(vectors), THREADS]
    facts = json.loads(note.read_text()) if note.exists() else {}
    if kind.ours or facts.get("made_of") != made_of:
        toy = kind(d)  # so that imports and compilation are not timed below
        toy.build(unit(np.random.default_rng(0).standard_normal((5000, d), np.float32)))
        for search, queries in zip(toy.searchers(*cheapest), (vectors[0], vectors[:5]), strict=True):
            search(queries)
        del toy
        gc.collect()
        before = resident_mb()
        facts = {"made_of": made_of, "build_s": timed(library.build, vectors)[0]}
        facts["resident_mb"] = resident_mb() - before
        if not kind.ours or hasattr(library.index, "save"):
            facts["save_s"] = timed(library.save, path, clock=time.perf_counter)[0]
            facts["disk_mb"] = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()) / 1e6
            note.write_text(json.dumps(facts))
    else:
        library.load(path)
    if "disk_mb" in facts:
        again = kind(d)

        def load_and_ask():
            again.load(path)
            again.searchers(*cheapest)[0](vectors[0])

        load_and_ask()  # numba compiles once more for memory-mapped arrays
        facts["load_s"] = timed(load_and_ask, clock=time.perf_counter)[0]
    return library, {name: fact for name, fact in facts.items() if name != "made_of"} | {"version": made_of[0]}


def kth_cosines(queries, vectors):
    """The K-th best cosine of each query, float32 [queries], by exact search."""
    kth = np.empty(len(queries), np.float32)
    for first in range(0, len(queries), 50):
        cosines = queries[first : first + 50] @ vectors.T
        cosines.partition(len(vectors) - K, axis=1)
        kth[first : first + 50] = cosines[:, -K]
    return kth


def recall(ids, queries, vectors, kth):
    """Share of the K nearest vectors that were found. A vector that ties with the K-th counts as found."""
    rows = [np.array([i for i in row if 0 <= i < len(vectors)], np.int64) for row in ids]  # others: nothing found
    found = sum((vectors[row] @ q >= least - 1e-6).sum() for row, q, least in zip(rows, queries, kth, strict=False))
    return float(found / (K * len(rows)))


def undominated(points, margin=1.0):
    """The points (recall, queries/s, ...) that no other point beats in both (queries/s by ``margin``), by recall."""
    beaten = [any(p[0] <= q[0] and p[1] * margin < q[1] for q in points) for p in points]
    return sorted(point for point, worse in zip(points, beaten, strict=True) if not worse)


def choose_settings(library, queries, vectors, kth):
    """The settings to measure, each with its tuning recall and the number of queries in a pass."""
    points = []
    for second in library.second_knob:
        recalls = []
        for value in library.knob:
            one, _ = library.searchers(value, second)
            seconds, _ = timed(one_by_one, one, queries[:10])
            some = queries[: max(10, int(10 * PASS_SECONDS / seconds))]
            (seconds, ids), (again, _) = (timed(one_by_one, one, some) for _ in range(2))
            recalls.append(recall(ids, some, vectors, kth))
            if recalls[-1] >= LOW:
                points.append((recalls[-1], len(some) / min(seconds, again), value, second))
            if recalls[-1] >= HIGH or (second is not None and len(recalls) > 3 and recalls[-1] <= recalls[-4]):
                break  # higher values of this knob do not increase recall
    chosen, margin = [], 1.1 if library.second_knob == [None] else 1.0  # above 1, so that noise removes no setting
    for share, rate, *knobs in undominated(points, margin):
        if (
            not chosen or share >= HIGH or 1 - share < 0.85 * (1 - chosen[-1]["tuned"])
        ):  # skips a setting close to the last one
            chosen.append({"knobs": knobs, "tuned": share, "n": max(10, int(PASS_SECONDS * rate))})
        if share >= HIGH:
            break
    return chosen


def measure(jobs, queries, vectors, kth, rounds):
    """Add the recall and the queries/s to each setting; ``jobs`` has pairs of a library and a setting (a dict)."""
    for turn in tqdm(range(rounds), desc="measure", unit="round"):
        for library, setting in tqdm(jobs, leave=False, unit="setting"):
            one, many = library.searchers(*setting["knobs"])
            some = queries[: setting["n"]]
            one_by_one(one, some[:50])  # fills the CPU caches with data of this library
            for kind, search in (("single", partial(one_by_one, one)), ("batch", many)):
                seconds, ids = timed(search, some)
                setting.setdefault(f"{kind}_rates", []).append(len(some) / seconds)
                if turn == 0:
                    setting[f"{kind}_recall"] = recall(ids, some, vectors, kth)


def compare(kinds, vectors, tuning, measured, folder, rounds):
    """All measurements of a data set."""
    libraries, facts, kth = [], {}, kth_cosines(tuning, vectors)
    for kind in tqdm(kinds, desc="build and tune", unit="library"):
        library, facts[kind.name] = obtain(kind, vectors, folder)
        facts[kind.name]["settings"] = choose_settings(library, tuning, vectors, kth)
        libraries.append(library)
    kth = kth_cosines(measured, vectors)
    jobs = [(library, setting) for library in libraries for setting in facts[library.name]["settings"]]
    measure(jobs, measured, vectors, kth, rounds)
    for library in libraries:
        if type(library) is RandomProjection:
            facts[library.name]["default_recall"] = recall(library.searchers()[1](measured), measured, vectors, kth)
    return {"vectors": len(vectors), "mb": vectors.nbytes / 1e6, "threads": THREADS, "libraries": facts}


def at_recall(facts, target, kind="single"):
    """Interpolated queries/s at a recall. None if no setting reaches it; the fastest setting's if all exceed it."""
    front = undominated([(s[f"{kind}_recall"], median(s[f"{kind}_rates"])) for s in facts["settings"]])
    if not front or front[-1][0] < target:
        return None
    recalls, rates = zip(*front, strict=True)
    return float(np.exp(np.interp(target, recalls, np.log(rates))))


def show_table(heads, rows):
    """Print a Markdown table with a dash for None."""
    print("\n| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for name, *numbers in rows:
        cells = ["-" if n is None else f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in numbers]
        print(f"| {name} | " + " | ".join(cells) + " |")


def report(name, result):
    """Print the table of a data set, the ratios of `RandomProjectionIndex` to the others, and its costs."""
    print(f"\n## {name}: {result['vectors']:,} vectors, {result['threads']} thread(s)")
    heads = [f"@{target:.3g}" for target in TARGETS] + ["batch @0.95", "batch @0.99", "build s", "disk MB", "load ms"]
    rows = []
    for library, facts in result["libraries"].items():
        rates = [at_recall(facts, target) for target in TARGETS]
        rates += [at_recall(facts, target, "batch") for target in (0.95, 0.99)]
        load_ms = 1000 * facts["load_s"] if "load_s" in facts else None
        rows.append([library, *rates, facts["build_s"], facts.get("disk_mb"), load_ms])
    show_table(["queries/s", *heads], rows)
    ours = result["libraries"].get(RandomProjection.name)
    if ours is None:
        return
    lines = []
    for library, *rates in rows[1:]:
        ratios = [a / b if a and b else None for a, b in zip(rows[0][1:4], rates, strict=False)]
        lines.append(f"{library} {' / '.join('-' if ratio is None else f'{ratio:.2f}' for ratio in ratios)}")
    print(f"\nqueries/s of {RandomProjection.name} / others, at recall 0.9 / 0.95 / 0.99: {'; '.join(lines)}.")
    lines = [f"{setting['knobs'][0]}: {setting['single_recall']:.4f}" for setting in ours["settings"]]
    print(f"\nIts recall by effort: {', '.join(lines)}; with the default effort: {ours['default_recall']:.4f}.")
    beyond = 1e6 * (ours["disk_mb"] - result["mb"]) / result["vectors"]
    print(f"It stores {beyond:.0f} bytes for each vector in addition to the vectors ({result['mb']:,.0f} MB).", end=" ")
    print(f"The build took {ours['resident_mb']:,.0f} MB of memory; saving the index took {ours['save_s']:.2f} s.")


def report_growth(results):
    """Print how the time of a query grows with the number of vectors."""
    sizes = [name for name in DATA if name.startswith("clustered")]
    if not set(sizes) <= set(results):
        return
    for target in (0.95, 0.99):
        rows = []
        for library in results[sizes[0]]["libraries"]:
            known = [results[size]["libraries"].get(library) for size in sizes]
            rates = [facts and at_recall(facts, target) for facts in known]
            costs = [1e6 / rate if rate else None for rate in rates]
            rows.append([library, *costs, costs[-1] / costs[0] if costs[0] and costs[-1] else None])
        show_table([f"µs a query @{target}", *sizes, "times"], rows)


def plot(results, file):
    """Draw queries/s over recall, with a panel for each data set."""
    from matplotlib import pyplot

    size = (6 * len(results), 5)
    figure, panels = pyplot.subplots(1, len(results), figsize=size, squeeze=False, layout="constrained")
    names = [kind.name for kind in LIBRARIES]
    for panel, (name, result) in zip(panels[0], results.items(), strict=True):
        for library, facts in result["libraries"].items():
            points = undominated([(s["single_recall"], median(s["single_rates"])) for s in facts["settings"]])
            nines = [-np.log10(max(1 - share, 1e-4)) for share, _ in points]
            number = names.index(library)
            colour, width = pyplot.get_cmap("tab20")(number), 3 if number == 0 else 1.5
            panel.plot(nines, [rate for _, rate in points], ".-", color=colour, linewidth=width, label=library)
        ticks = [0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999]
        panel.set_xticks([-np.log10(1 - tick) for tick in ticks], [f"{tick:g}" for tick in ticks], rotation=45)
        panel.set(title=name, xlabel=f"recall@{K}", yscale="log")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("queries/s")
    panels[0][-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=[*DATA, "audio"], help="default: all")
    parser.add_argument("--audio", metavar="FILE", help="file of vectors and sounds, written by --embed")
    parser.add_argument("--embed", metavar="FOLDER", help="embed this folder, write the file --audio, and end")
    parser.add_argument("--model", help="model of --embed: a folder or a name on the Hub")
    parser.add_argument("--hop_seconds", type=float, help="of the windows of --embed; default: the model's")
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="libraries, by name or its beginning")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all_cores", action="store_true")
    parser.add_argument("--cache", metavar="FOLDER", help="keep and reuse the indexes of other libraries")
    parser.add_argument("--output", default="results/benchmarks", help="folder of index.png and index.json (extended)")
    arguments = parser.parse_args()
    if arguments.embed:
        return embed(arguments.embed, arguments.model, arguments.audio, arguments.hop_seconds)
    if arguments.audio is None and "audio" in (arguments.data or []):
        parser.error("the data set audio needs --audio FILE")
    DATA["audio"] = partial(audio, arguments.audio)
    names = arguments.data or [name for name in DATA if name != "audio" or arguments.audio]
    starts = tuple(name.lower() for name in arguments.only)
    wanted = [kind for kind in LIBRARIES if kind.name.lower().startswith(starts)]
    kinds = [kind for kind in wanted if find_spec(kind.module)]
    for kind in set(wanted) - set(kinds):
        print(f"Not installed, so left out: {kind.name}", file=sys.stderr)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "index.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in names:
        vectors, tuning, measured = DATA[name](rng=np.random.default_rng(0))
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(arguments.cache or scratch, name)
            folder.mkdir(parents=True, exist_ok=True)
            results[name] = compare(kinds, vectors, tuning, measured, folder, arguments.rounds)
        file.write_text(json.dumps(results, indent=1))
        plot(results, output / "index.png")
        report(name, results[name])
    report_growth(results)


if __name__ == "__main__":
    main()
