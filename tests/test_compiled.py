"""Compiled code works whatever becomes of numba's cache."""

import errno
import importlib.util

from cochlea_sb.index import compiled

SOURCE = """
from cochlea_sb.index.compiled import compiled

@compiled()
def twice(x):
    return 2 * x
"""


def load(path):
    """The function of a module, compiled by a fresh dispatcher."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.twice


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    def nowhere(*arguments):
        raise RuntimeError("cannot cache function 'twice': no locator available")

    (tmp_path / "kernel.py").write_text(SOURCE)
    monkeypatch.setattr(compiled.FunctionCache, "__init__", nowhere)
    assert load(tmp_path / "kernel.py")(4) == 8


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "kernel.py").write_text(SOURCE)
    monkeypatch.setattr(compiled.FunctionCache, "save_overload", full)
    assert load(tmp_path / "kernel.py")(4) == 8


def test_a_cache_is_used_and_a_damaged_one_is_not(tmp_path):
    (tmp_path / "kernel.py").write_text(SOURCE)
    assert load(tmp_path / "kernel.py")(4) == 8
    cached = load(tmp_path / "kernel.py")
    assert cached(4) == 8 and sum(cached.stats.cache_hits.values()) == 1
    files = [*tmp_path.rglob("*.nbi"), *tmp_path.rglob("*.nbc")]
    assert len(files) >= 2
    for content in (b"", b"no cache", files[0].read_bytes()[:40]):
        for file in files:
            file.write_bytes(content)
        damaged = load(tmp_path / "kernel.py")
        assert damaged(4) == 8 and not damaged.stats.cache_hits
