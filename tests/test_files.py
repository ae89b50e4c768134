"""Files are written whole or not at all, and stay."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from imagescope.files import parse_json, replacing, write_json, write_text


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("durable", [True, False])
def test_the_content_is_on_the_disk_before_the_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    done, fsync, replace = [], os.fsync, os.replace

    def synced(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(*names: Any) -> None:
        done.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    write_json(tmp_path / "a.json", {"a": 1}, durable=durable)
    assert done == (["file", "rename", "folder"] if durable else ["rename"])


def test_nesting_beyond_all_measure_is_no_json() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        parse_json("[" * 200_000)
