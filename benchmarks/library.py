#!/usr/bin/env python3
"""Measure a library of a million windows: the time to open it, the time to search it, and its memory.

    python benchmarks/library.py [--sounds 100000] [--windows 10] [--folder kept]

The vectors are generated in clusters; the catalogue has the real format. A new process opens and searches the library.
The script prints the private memory of this process, and separately the mapped pages of the index, which several
processes can share.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cochlea_sb.data.sounds import Source
from cochlea_sb.inference.batch import Encoded
from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.library.store import Store
from cochlea_sb.library.writer import MERGE_WHILE_ADDING

DIMENSIONS, AT_ONCE = 128, 10_000
FACTS = {
    "encoder": {"source": None, "revision": None, "fingerprint": "generated"},
    "dimensions": DIMENSIONS,
    "hop_seconds": 0.48,
    "window_seconds": 0.96,
}
ASK = """
import sys, time, json, resource
import numpy as np
from cochlea_sb import SoundLibrary
SoundLibrary.open(sys.argv[2]).search(np.ones(128), 3)  # compiles, and imports
def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(name))
before = memory("RssAnon"), memory("RssFile")
start = time.perf_counter()
library = SoundLibrary.open(sys.argv[1])
opened = time.perf_counter() - start
state = library._state
rng = np.random.default_rng(1)
queries = [state.vectors_of(np.array([window]))[0] for window in rng.integers(0, library.n_windows, 300)]
queries = [query + rng.normal(size=128).astype(np.float32) * 0.02 for query in queries]
def ask(**options):
    times = []
    for query in queries:
        start = time.perf_counter()
        library.search(query, **options)
        times.append(time.perf_counter() - start)
    return {"median": float(np.median(times)), "most": max(times)}
print(json.dumps({
    "first": ask(k=10), "search": ask(k=10), "page": ask(k=20, skip=20), "path": ask(k=10, path="kind7/"),
    "open": opened, "own": memory("RssAnon") - before[0], "mapped": memory("RssFile") - before[1],
    "windows": library.n_windows, "sounds": len(library),
}))
"""


def generate(folder, n_sounds, n_windows):
    """A library of sounds. The windows of a sound lie around a centre, and the centre lies near one of many kinds."""
    rng = np.random.default_rng(0)
    kinds = rng.standard_normal((2000, DIMENSIONS), np.float32)
    store = Store(folder)
    store.create(FACTS)
    library = SoundLibrary(store)
    with library._writer() as writer:
        for first in tqdm(range(0, n_sounds, AT_ONCE), desc="generate"):
            embedded = []
            for number in range(first, min(first + AT_ONCE, n_sounds)):
                kind = rng.integers(len(kinds))
                centre = kinds[kind] + 0.6 * rng.standard_normal(DIMENSIONS, np.float32)
                vectors = centre + 0.4 * rng.standard_normal((n_windows, DIMENSIONS), np.float32)
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                path = f"/samples/pack {number % 97}/kind{kind}/sound {number}.wav"
                source = Source(path, None, f"kind{kind}", 1_000_000 + number, number)
                embedded.append(Encoded(source, vectors, 0.48 * (n_windows + 1), f"{number:032x}", None))
            writer.commit(embedded)
            writer.merge_if_beyond(MERGE_WHILE_ADDING)  # as in `SoundLibrary.add`
        writer.merge()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sounds", type=int, default=100_000)
    parser.add_argument("--windows", type=int, default=10, help="number of windows of each sound")
    parser.add_argument("--folder", help="keep the libraries in this folder, and reuse them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        names = [Path(arguments.folder or scratch, name) for name in ("million.library", "toy.library")]
        for name, sounds in zip(names, (arguments.sounds, 1000), strict=True):
            if not name.exists():
                generate(name, sounds, arguments.windows)
        done = subprocess.run([sys.executable, "-c", ASK, *map(str, names)], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    vectors = 4 * DIMENSIONS * facts["windows"]
    print(f"\n{facts['sounds']:,} sounds, {facts['windows']:,} windows, {vectors / 1e6:,.0f} MB of vectors")
    print(f"open: {facts['open']:.3f} s")
    for name in ("first", "search", "page", "path"):
        print(f"{name}: median {1e3 * facts[name]['median']:.2f} ms, at most {1e3 * facts[name]['most']:.1f} ms")
    own, mapped = facts["own"] / 1e6, facts["mapped"] / 1e6
    print(f"memory: {own:,.0f} MB of its own, {mapped:,.0f} MB mapped: {1e6 * (own + mapped) / vectors:.2f} x vectors")


if __name__ == "__main__":
    main()
