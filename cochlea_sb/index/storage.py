"""An index on disk: a folder of ``.npy`` arrays and a manifest that names them.

The manifest ``index.json`` holds the kind and version of the index, and the file, size and checksum of each array.
`save` writes new array files, and then replaces the manifest atomically. So a reader finds either the old index or the
new index, even after a crash. One process may write while many processes read.
"""

import json
import os
import re
import secrets
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

VERSION = 3
MANIFEST = "index.json"
CHUNK = 1 << 24  # bytes
OWN = re.compile(r"[a-z_]+\.index-[0-9a-f]{16}\.npy|index\.json\.[0-9a-f]{16}")  # files that `save` writes
WHOLE, BITS = np.dtype(np.int64), np.dtype(np.uint64)
TYPES = {"ids": WHOLE, "counts": WHOLE, "codes": BITS}  # all others are float32


class DamagedIndex(ValueError):
    """The folder named in the message holds no index of this version, or a damaged one."""


def save(folder: str | os.PathLike[str], kind: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    """Write an index, and replace the index in the folder, if any. ``kind`` is its kind, ``facts`` are numbers."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"'{folder}' is a file, or inside one: give a folder to save to.") from error
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
    for path in folder.iterdir():  # left by earlier saves, finished or not
        if OWN.fullmatch(path.name) and path.name not in current:
            path.unlink(missing_ok=True)


def load(
    folder: str | os.PathLike[str], kind: str, *, mmap: bool, verify: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the facts that `save` wrote; arguments and errors as in `RandomProjectionIndex.load`."""
    folder = Path(folder)
    try:
        while True:
            manifest = read_manifest(folder)
            if (manifest["kind"], manifest["version"]) != (kind, VERSION):
                found = f"{manifest['kind']}, version {manifest['version']}"
                raise DamagedIndex(f"'{folder}' holds an index of another kind ({found}): expected {kind}, {VERSION}.")
            try:
                arrays = {
                    name: read_array(folder / entry["file"], entry, mmap, verify or not mmap)
                    for name, entry in manifest["arrays"].items()
                }
                return arrays, manifest["facts"]
            except FileNotFoundError:  # a writer replaced it after the manifest was read
                if read_manifest(folder) == manifest:
                    raise
    except (OSError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, FileNotFoundError):
            raise  # no access, or a failing disk
        raise damaged(folder, error) from error


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest of a saved index; raises a DamagedIndex if there is none."""
    try:
        with open(Path(folder) / MANIFEST, encoding="utf-8") as file:
            manifest: dict[str, Any] = json.load(file)
        if not isinstance(manifest.get("arrays"), dict):
            raise ValueError("no arrays")
        return manifest
    except FileNotFoundError as error:
        raise DamagedIndex(f"'{folder}' holds no index (no {MANIFEST}): give a folder that `save` wrote.") from error
    except NotADirectoryError as error:
        raise DamagedIndex(f"'{folder}' is a file: give the folder that `save` wrote.") from error
    except (ValueError, AttributeError, RecursionError) as error:
        raise damaged(folder, f"{MANIFEST} can't be read") from error


def read_array(path: Path, entry: dict[str, Any], mmap: bool, verify: bool) -> np.ndarray:
    """Read an array; raises a DamagedIndex if the file differs from its entry in the manifest."""
    if path.name != entry["file"] or "/" in entry["file"] or "\\" in entry["file"]:
        raise damaged(path.parent, "its manifest names a file outside of the folder")
    if path.stat().st_size != entry["bytes"] or (verify and checksum(path) != entry["crc32"]):
        raise damaged(path, "its size or checksum has changed")
    try:
        # Mode c is copy-on-write: `remove` changes the memory of this process, not the file.
        mode: Literal["c"] | None = "c" if mmap and 0 not in entry["shape"] else None
        array = np.asarray(np.load(path, mmap_mode=mode, allow_pickle=False))
    except OSError:
        raise
    except Exception as error:  # a damaged header raises many kinds
        raise damaged(path, error) from error
    if (array.dtype.str, list(array.shape)) != (entry["dtype"], entry["shape"]):
        raise damaged(path, "it holds another array than the one saved")
    return array


def expect(
    folder: str | os.PathLike[str], arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> np.ndarray:
    """Return an array of a loaded index; raises a DamagedIndex for a wrong type or shape (None means any size)."""
    array = arrays.get(name)
    dtype = TYPES.get(name, np.dtype(np.float32))
    if array is None or array.dtype != dtype or len(array.shape) != len(shape):
        raise damaged(folder, f"no {dtype} array '{name}' of {len(shape)} dimensions")
    if any(size not in (None, found) for size, found in zip(shape, array.shape, strict=True)):
        raise damaged(folder, f"'{name}' has shape {list(array.shape)}, expected {list(shape)}")
    return array


def checksum(path: Path) -> int:
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def damaged(path: str | os.PathLike[str], reason: object) -> DamagedIndex:
    return DamagedIndex(f"'{path}' is damaged or no index ({reason}): build the index again.")
