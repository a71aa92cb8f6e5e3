"""The limits of a container."""

import os

import pytest

from cochlea_sb import machine


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """An empty control group, on a machine with 8 cores and 1,000 pages of 4,096 bytes."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.get)
    return tmp_path


@pytest.mark.parametrize(
    "limit, cores",
    [
        (b"150000 100000\n", 2),
        (b"1000 100000\n", 1),
        (b"9900000 100000\n", 8),
        (b"max 100000\n", 8),
        (b"some 100000\n", 8),
        (b"-1 100000\n", 8),
        (b"100000\n", 8),
        (b"\xff\xfe", 8),
        (b"", 8),
        (None, 8),
        (b"100000 0\n", 8),
    ],
)
def test_cores_heed_the_quota(cgroup, limit, cores):
    if limit is not None:
        (cgroup / "cpu.max").write_bytes(limit)
    assert machine.n_cores() == cores


@pytest.mark.parametrize(
    "limit, size",
    [(b"1000000\n", 1_000_000), (b"99999999999\n", 4_096_000), (b"max\n", 4_096_000), (b"?", 4_096_000)],
)
def test_memory_heeds_the_limit(cgroup, limit, size):
    assert machine.memory_bytes() == 4_096_000
    (cgroup / "memory.max").write_bytes(limit)
    assert machine.memory_bytes() == size
