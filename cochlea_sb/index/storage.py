"""An index on disk: a folder of ``.npy`` arrays and a manifest that names them.

`index.json` tells the kind and version of the index, and each array's file, size and checksum. A save writes new files
beside the old ones and then replaces the manifest, in one step of the file system: whoever opens the folder, or kills
the writer, at any moment gets the old state or the new one. One process writes at a time; any number may read.
"""

import json
import os
import re
import secrets
import zlib
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 2
MANIFEST = "index.json"
CHUNK = 1 << 24  # bytes
OWN = re.compile(
    r"[a-z_]+\.index-[0-9a-f]{16}\.npy|index\.json\.[0-9a-f]{16}"
)  # names that `save` gives beside the manifest
WHOLE, BITS = np.dtype(np.int64), np.dtype(np.uint64)
TYPES = {"ids": WHOLE, "counts": WHOLE, "codes": BITS, "signs": BITS}  # others are float32


def save(folder: str | os.PathLike[str], kind: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write arrays and a few facts.

    Arguments
    ---------
    folder : str or Path
        Made where it is missing. An index that it holds is replaced.
    kind : str
        Which class can load it.
    arrays : dict of str to np.ndarray
    facts : dict
        Numbers and short lists, written as JSON.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"'{folder}' is, or is below, a file: give a folder to save to.") from error
    token = secrets.token_hex(8)
    entries = {}
    for name, array in arrays.items():
        path = folder / f"{name}.index-{token}.npy"
        with open(path, "wb") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        entries[name] = {
            "file": path.name,
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "bytes": path.stat().st_size,
            "crc32": checksum(path),
        }
    manifest = {"kind": kind, "version": VERSION, "facts": facts, "arrays": entries}
    partial = folder / f"{MANIFEST}.{token}"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / MANIFEST)
    current = {entry["file"] for entry in entries.values()}
    for path in folder.iterdir():  # what earlier saves left, finished or not
        if OWN.fullmatch(path.name) and path.name not in current:
            path.unlink(missing_ok=True)


def load(
    folder: str | os.PathLike[str], kind: str, *, mmap: bool, verify: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read what `save` wrote.

    Arguments
    ---------
    folder : str or Path
    kind : str
    mmap : bool
        Map the arrays: nothing is read before it is used, and processes share the pages. Changes stay in memory.
    verify : bool
        Compare all checksums, which reads everything. Sizes and shapes are always compared, and without ``mmap`` so
        are the checksums.

    Returns
    -------
    arrays : dict of str to np.ndarray
    facts : dict

    Raises
    ------
    ValueError
        Where there is no such index, or it is damaged.
    """
    folder = Path(folder)
    try:
        while True:
            manifest = read_manifest(folder)
            if (manifest["kind"], manifest["version"]) != (kind, VERSION):
                found = f"{manifest['kind']}, version {manifest['version']}"
                raise ValueError(f"'{folder}' holds an index of another kind ({found}): expected {kind}, {VERSION}.")
            try:
                arrays = {
                    name: read_array(folder / entry["file"], entry, mmap, verify or not mmap)
                    for name, entry in manifest["arrays"].items()
                }
                return arrays, manifest["facts"]
            except FileNotFoundError:  # replaced by a writer since the manifest was read
                if read_manifest(folder) == manifest:
                    raise
    except (OSError, KeyError, TypeError, AttributeError) as error:
        raise damaged(folder, error) from error


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a saved index; ValueError where there is none."""
    try:
        with open(Path(folder) / MANIFEST, encoding="utf-8") as file:
            manifest = json.load(file)
        if not isinstance(manifest.get("arrays"), dict):
            raise ValueError("it names no arrays")
        return manifest
    except FileNotFoundError as error:
        raise ValueError(f"'{folder}' holds no index (no {MANIFEST}): give a folder that `save` wrote.") from error
    except NotADirectoryError as error:
        raise ValueError(f"'{folder}' is a file: give the folder that `save` wrote.") from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{folder}' holds no readable index: its {MANIFEST} is not one that `save` wrote.") from error


def read_array(path, entry, mmap, verify):
    """One array; ValueError where its file is not what the manifest tells."""
    if path.name != entry["file"] or "/" in entry["file"] or "\\" in entry["file"]:
        raise ValueError(f"'{path.parent}' is damaged: its manifest names a file outside of it. Build it again.")
    if path.stat().st_size != entry["bytes"] or (verify and checksum(path) != entry["crc32"]):
        raise ValueError(f"'{path}' is damaged: its size or checksum is not the one saved. Build the index again.")
    try:
        # Copy-on-write: removing a vector changes the pages of this process only.
        array = np.asarray(
            np.load(path, mmap_mode="c" if mmap and 0 not in entry["shape"] else None, allow_pickle=False)
        )
    except OSError:
        raise
    except Exception as error:  # of many kinds, where a header is damaged
        raise damaged(path, error) from error
    if (array.dtype.str, list(array.shape)) != (entry["dtype"], entry["shape"]):
        raise ValueError(f"'{path}' is damaged: it holds another array than the one saved. Build the index again.")
    return array


def expect(
    folder: str | os.PathLike[str], arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    """An array of a loaded index; ValueError where it is missing or has another shape (None: any size) or type."""
    array = arrays.get(name)
    dtype = TYPES.get(name.removeprefix("leaf_"), np.dtype(np.float32))
    if array is None or array.dtype != dtype or len(array.shape) != len(shape):
        raise damaged(folder, f"no {dtype} array '{name}' of {len(shape)} dimensions")
    if any(size not in (None, found) for size, found in zip(shape, array.shape, strict=True)):
        raise damaged(folder, f"'{name}' has shape {list(array.shape)}, expected {list(shape)}")
    return array


def checksum(path):
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def damaged(path: str | os.PathLike[str], error: object) -> ValueError:
    return ValueError(f"'{path}' is not a readable index ({error}): build it again.")
