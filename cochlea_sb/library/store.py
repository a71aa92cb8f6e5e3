"""A library on disk: files that never change, and a manifest that is replaced in one step.

    library.json            the manifest: the identity of the encoder, and the names of the current files
    sounds-*.parquet        the catalogue: a record of each sound (`shards.SOUND`, and the number of its first window)
    index-*/                the index of all windows in the catalogue
    delta-*.parquet         the delta: shards with the sounds that were added or removed since the last merge
    lock                    locked by the process that changes the library (`Store.lock`)

A reader sees a change completely or not at all. A record in the delta replaces earlier records of the same path.
"""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.errors import UserError, is_damage, one_line
from cochlea_sb.files import link, write_text
from cochlea_sb.hub import names_on_hub
from cochlea_sb.index.interface import Index, load_index
from cochlea_sb.index.storage import DamagedIndex
from cochlea_sb.library.bounds import Allowance
from cochlea_sb.library.columns import as_numpy
from cochlea_sb.library.shards import SOUND, Shard, read_columns, read_shard, write_parquet

VERSION = 2
OWN = re.compile(
    r"(sounds|delta)-[0-9a-f]{16}\.parquet|index-[0-9a-f]{16}|"
    r"\.((sounds|delta)-[0-9a-f]{16}\.parquet|library\.json)\.[0-9a-f]{16}\.partial"
)
LOCK, OWNER = "lock", "lock.owner"
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL}  # of a disk without flock
CATALOGUE = SOUND.append(pa.field("first_window", pa.int64()))
REPEATED = ("label", "seconds", "n_windows", "problem")


class Store:
    def __init__(self, folder: str | os.PathLike[str], exact_up_to: int = 0) -> None:
        if not isinstance(folder, (str, os.PathLike)) or not os.fspath(folder):
            raise UserError(f"The library is {folder!r}: expected the name of a folder.")
        self.folder, self.exact_up_to = Path(os.path.expanduser(folder)), exact_up_to  # see `load_index`

    def exists(self) -> bool:
        return (self.folder / LIBRARY_MANIFEST).is_file()

    def create(self, facts: dict[str, Any]) -> None:
        """Create an empty library with ``facts`` in its manifest; raises a UserError if the folder has other files."""
        manifest = {"version": VERSION, **facts, "next_window": 0, "catalogue": None, "index": None, "delta": []}
        try:
            others = [
                path
                for path in self.folder.iterdir()
                if path.name not in (LOCK, OWNER) and not OWN.fullmatch(path.name)
            ]
            if others and not self.exists():
                raise UserError(f"'{self.folder}' exists and is no library: name a new folder.")
        except FileNotFoundError:
            self.folder.mkdir(parents=True, exist_ok=True)
        except NotADirectoryError as error:
            raise UserError(f"'{self.folder}' is a file, or inside one, and no library: name a new folder.") from error
        with self.lock():
            if self.exists():
                raise UserError(f"'{self.folder}' already holds a library: open it, or choose another folder.")
            self.commit(manifest)

    def manifest(self) -> dict[str, Any]:
        """Read the manifest; raises a UserError if the manifest is missing, invalid or of another version."""
        try:
            manifest: dict[str, Any] = json.loads((self.folder / LIBRARY_MANIFEST).read_text(encoding="utf-8"))
            version = manifest["version"]
            files = [manifest["catalogue"], manifest["index"], *manifest["delta"]]
            encoder = manifest["encoder"]
            texts = [encoder["fingerprint"], encoder["source"] or "", encoder["revision"] or ""]
            whole = all(isinstance(text, str) for text in texts) and bool(texts[0])
            counts = [manifest["dimensions"], manifest["next_window"] + 1]
            whole = whole and all(isinstance(count, int) and 0 < count < 1 << 62 for count in counts)
            numbers = [manifest["hop_seconds"], manifest["window_seconds"]]
            whole = whole and all(isinstance(number, (int, float)) and 0 < number < 1e6 for number in numbers)
            whole = whole and len(set(manifest["delta"])) == len(manifest["delta"])
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "make one with `cochlea index FOLDER --library NAME`"
            if names_on_hub(self.folder):
                hint += f", or fetch it: hf download {self.folder} --repo-type dataset --local-dir NAME"
            raise UserError(f"'{self.folder}' holds no library (no {LIBRARY_MANIFEST}): {hint}.") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if not is_damage(error):
                raise self.unreadable(error) from error
            raise self.damaged(f"its {LIBRARY_MANIFEST} can't be read") from error
        if version != VERSION:
            raise UserError(f"'{self.folder}' has version {version}, expected {VERSION}: index its sounds again.")
        if not whole or not all(name is None or OWN.fullmatch(str(name)) for name in files):
            raise self.damaged(f"its {LIBRARY_MANIFEST} holds invalid values")
        return manifest

    def damaged(self, reason: str) -> UserError:
        return UserError(f"'{self.folder}' is damaged ({reason}): index its sounds again, into a new library.")

    def unreadable(self, error: Exception) -> UserError:
        return UserError(f"'{self.folder}' can't be read now ({one_line(error)}): mend that, and run this again.")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from changing the library. The lock of a process that is killed becomes free.

        The system locks the file ``lock``. On a disk whose file system has no locks, the file ``lock.owner`` names the
        process instead. If that process was killed, the next process of the same computer replaces the file.
        """
        import filelock  # here, because only changes need it

        if any((self.folder / name).is_symlink() for name in (LOCK, OWNER)):
            raise self.damaged("its lock is a link")
        lock: filelock.BaseFileLock = filelock.FileLock(self.folder / LOCK, fallback_to_soft=False)
        try:
            try:
                lock.acquire(timeout=0)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                lock = filelock.SoftFileLock(self.folder / OWNER)
                lock.acquire(timeout=0)
        except filelock.Timeout as error:
            left = f", or delete '{self.folder / OWNER}' if none is" if (self.folder / OWNER).exists() else ""
            raise UserError(
                f"'{self.folder}' is in use: another process is changing it; try again later{left}."
            ) from error
        except OSError as error:
            raise UserError(f"'{self.folder}' can't be changed ({error.strerror}): make it writable.") from error
        try:
            yield
        finally:
            lock.release()

    def commit(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest, and delete files that the new manifest does not name. The caller holds the lock."""
        write_text(self.folder / LIBRARY_MANIFEST, json.dumps(manifest, indent=1))
        current = {manifest["catalogue"], manifest["index"], *manifest["delta"]}
        for path in self.folder.iterdir():
            if OWN.fullmatch(path.name) and path.name not in current:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def new_name(self, kind: str, suffix: str = "") -> str:
        """Make a file name that no other file has; ``kind`` is ``sounds``, ``delta`` or ``index``."""
        return f"{kind}-{secrets.token_hex(8)}{suffix}"

    def write_catalogue(self, table: pa.Table) -> str:
        """Write a table with the columns of `CATALOGUE`; returns the file name."""
        name = self.new_name("sounds", ".parquet")
        write_parquet(self.folder / name, table, REPEATED)
        return name

    def read(self) -> tuple[dict[str, Any], pa.Table, Index | None, list[Shard]]:
        """Read the arguments of `State`; raises a UserError if the library is missing or damaged."""
        while True:
            manifest = self.manifest()
            try:
                catalogue, allowance = pa.Table.from_batches([], CATALOGUE), Allowance()
                if manifest["catalogue"] is not None:
                    file = self.folder / manifest["catalogue"]
                    catalogue = read_columns(file, CATALOGUE.names, allowance).cast(CATALOGUE)
                index = None if manifest["index"] is None else self.open_index(manifest["index"])
                delta = [read_shard(self.folder / name, allowance) for name in manifest["delta"]]
            except (OSError, ValueError, pa.ArrowException) as error:
                if self.manifest() != manifest:  # a writer has replaced the files: read the new files
                    continue
                if isinstance(error, UserError):
                    raise
                if not is_damage(error):
                    raise self.unreadable(error) from error
                raise self.damaged(one_line(error)) from error
            self.check(manifest, catalogue, index, delta)
            pa.default_memory_pool().release_unused()
            return manifest, catalogue, index, delta

    def open_index(self, name: str) -> Index:
        """Open an index of the library; raises a UserError if the index is damaged."""
        if not (self.folder / name).is_dir():
            raise FileNotFoundError(name)
        try:
            return load_index(self.folder / name, exact_up_to=self.exact_up_to)
        except DamagedIndex as error:
            raise self.damaged(one_line(error)) from error

    def link_to(self, folder: Path) -> dict[str, Any]:
        """Link the current files, except the manifest, into a new folder; returns the manifest that names the files."""
        while True:
            manifest = self.manifest()
            try:
                for name in filter(None, (manifest["catalogue"], manifest["index"], *manifest["delta"])):
                    path = self.folder / name
                    (folder / name if path.is_dir() else folder).mkdir(parents=True, exist_ok=True)
                    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                        link(file, folder / file.relative_to(self.folder))
                if self.manifest() == manifest:  # otherwise a writer may have deleted files during the loop
                    return manifest
                shutil.rmtree(folder)
            except FileNotFoundError as error:
                if self.manifest() == manifest:
                    raise self.damaged(f"'{error.filename}' is missing") from error
                shutil.rmtree(folder)  # a writer has replaced the files: link the new files

    def check(self, manifest: dict[str, Any], catalogue: pa.Table, index: Index | None, delta: list[Shard]) -> None:
        """Raise a UserError if the catalogue, the index and the delta contradict each other."""
        needed = ("path", "seconds", "size", "changed_ns", "n_windows", "first_window")
        if any(catalogue[name].null_count for name in needed):
            raise self.damaged("its catalogue has missing values")
        counts, firsts = as_numpy(catalogue["n_windows"]), as_numpy(catalogue["first_window"])
        first_in_delta = manifest["next_window"] - sum(len(shard.vectors) for shard in delta)
        inside = (counts >= 0) & (counts < 1 << 40) & (firsts >= 0) & (firsts <= first_in_delta)
        if not inside.all() or ((firsts + counts)[:-1] > firsts[1:]).any() or (firsts + counts > first_in_delta).any():
            raise self.damaged("the window numbers in its catalogue are wrong")
        if int(counts.sum()) != (0 if index is None else len(index)):
            raise self.damaged("its catalogue and its index do not agree")
        sizes = {shard.vectors.shape[1] for shard in delta if len(shard.vectors)}
        sizes |= set() if index is None else {index.dimensions}
        if sizes - {manifest["dimensions"]}:
            raise self.damaged("its vectors have different dimensions")
