"""The cores, memory, devices and terminal that this process may use."""

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cochlea_sb.errors import UserError

CGROUP = Path("/sys/fs/cgroup")  # holds the limits of a Linux container (control groups, version 2)


def n_cores() -> int:
    """Return the number of cores that the affinity mask and the CPU quota of the container allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_limit("cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def memory_bytes() -> int:
    """Return the memory of the machine in bytes, or the memory limit of the container if it is lower."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = read_limit("memory.max")
    return min(memory, int(limit)) if limit.isdigit() else memory


def read_limit(name: str) -> str:
    """Return the text of a control file of the container, or an empty text if the file can't be read."""
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def check_device(device: str | None) -> None:
    """Check that torch can use a device, or raise a `UserError`. None is valid: SpeechBrain then chooses a device."""
    import torch

    if device is None:
        return
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"device is '{device}', which can't be used here ({reason}); set device to cpu, or omit it."
        ) from error


def progress_bar(items: Any = None, *, show: bool = True, **options: Any) -> Any:
    """Return a progress bar of tqdm on stderr. If stderr is closed, as in a program without a console, show none."""
    from tqdm import tqdm

    return tqdm(items, disable=not show or not is_open(sys.stderr), **options)


def is_open(stream: Any) -> bool:
    """Whether stdout or stderr can be written. In a program without a console, it is None or its file is closed."""
    if stream is None or getattr(stream, "closed", False):
        return False
    try:
        os.fstat(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):  # not a file, as in a notebook
        return True
    except OSError:
        return False
    return True


def silence_decoders() -> None:
    """Hide what C libraries print, such as the warnings of libmpg123, which would break the progress bar.

    ``sys.stdout`` and ``sys.stderr`` become copies of the same outputs, and the file descriptors 1 and 2 are connected
    to nothing. With the environment variable ``COCHLEA_TRACEBACK``, all output stays visible.
    """
    if os.environ.get("COCHLEA_TRACEBACK"):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and is_open(stream) and stream.fileno() == number:
            stream.flush()
            lines = 1 if stream.line_buffering else -1
            setattr(sys, name, open(os.dup(number), "w", lines, encoding=stream.encoding, errors=stream.errors))
            os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def torch_threads(most: int) -> Iterator[None]:
    """Limit torch to ``most`` threads in the block, because waiting torch threads slow down threads that decode."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system.

    Every training step on the CPU allocates large buffers of the same sizes. If the kernel must map and clear these
    buffers in every step, a step takes 1.5 times as long (`benchmarks/training.py`).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have no mallopt
        if mallopt is not None:
            m_trim_threshold, m_mmap_max = -1, -4
            mallopt(m_trim_threshold, -1)
            mallopt(m_mmap_max, 0)
