"""Cores, memory, devices and the terminal that this process may use."""

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cochlea_sb.errors import UserError

CGROUP = Path("/sys/fs/cgroup")  # a container's limits on Linux (control groups, version 2)


def n_cores() -> int:
    """Number of cores that the affinity mask and the CPU quota of a container allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_limit("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def memory_bytes() -> int:
    """Memory of the machine or of the container, in bytes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_limit("memory.max")
    return min(memory, int(limit)) if limit.isdigit() else memory


def read_limit(name: str) -> str:
    """Content of a control file of the container; empty if it is missing."""
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def check_device(device: str | None) -> None:
    """Raise `UserError` if torch can't use a device; with None, SpeechBrain will choose one."""
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device is '{device}', which can't be used here ({reason}); try --device cpu, or leave it out."
        ) from error


def progress_bar(items: Any = None, *, show: bool = True, **options: Any) -> Any:
    """A bar of tqdm on stderr. Without an open stderr, as in programs without a console, nothing is shown."""
    return tqdm(items, disable=not show or not is_open(sys.stderr), **options)


def is_open(stream: Any) -> bool:
    """Whether stdout or stderr can be written. In programs without a console it may be None, or its file closed."""
    if stream is None or getattr(stream, "closed", False):
        return False
    try:
        os.fstat(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):  # not a file, as in a notebook
        return True
    except OSError:
        return False
    return True


@contextmanager
def torch_threads(most: int) -> Iterator[None]:
    """Limit torch to ``most`` threads: while they wait, they keep cores busy that other threads decode on."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system.

    Each training step on the CPU allocates the same large buffers again. If the kernel has to map and clear them each
    time, the step takes half as long again (`benchmarks/training.py`).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent where the C library isn't glibc
        if mallopt is not None:
            m_trim_threshold, m_mmap_max = -1, -4
            mallopt(m_trim_threshold, -1)
            mallopt(m_mmap_max, 0)
