"""What the machine gives to this process: cores, memory, devices."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cochlea_sb.errors import UserError

CGROUP = Path("/sys/fs/cgroup")  # where Linux tells the limits of a container (control groups, version 2)


def n_cores() -> int:
    """Number of cores that this process may use: the affinity mask, and the CPU quota of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_limit("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def memory_bytes() -> int:
    """Memory of the machine in bytes, or the limit of the container."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_limit("memory.max")
    return min(memory, int(limit)) if limit.isdigit() else memory


def read_limit(name: str) -> str:
    """Content of a control file of the container; empty where there is none."""
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def check_device(device: str | None) -> None:
    """Raise `UserError` where the machine lacks a device.

    Arguments
    ---------
    device : str or None
        As in ``--device``; None lets SpeechBrain choose.
    """
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


@contextmanager
def torch_threads(most: int) -> Iterator[None]:
    """Let torch use at most that many threads: its threads wait busily, which slows the threads that decode."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next training step, rather than give it back to the system.

    A step on the CPU frees and takes the same few large buffers. To map them anew each time, and to have the kernel
    clear their pages, cost a third of the step where it was measured (`benchmarks/training.py`).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent where the C library isn't glibc
        if mallopt is not None:
            m_trim_threshold, m_mmap_max = -1, -4
            mallopt(m_trim_threshold, -1)
            mallopt(m_mmap_max, 0)
