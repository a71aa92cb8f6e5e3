"""Files are replaced as a whole or not at all; no partial file is left."""

import os
import re

import pytest

from cochlea_sb.files import whole_file, write_text


def test_a_file_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with whole_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and re.fullmatch(r"\.a\.txt\.[0-9a-f]{16}\.partial", partial.name)
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("flush") or fsync(handle))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    write_text(tmp_path / "a.txt", "text")
    assert done[:2] == ["flush", "replace"]
