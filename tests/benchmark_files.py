"""Benchmarks in a few rows, written in the real layouts, and where the real files are."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_real = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the real annotation files are not at {SHARED}"
)


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def image(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), color).save(path)
    return path


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def copy_real(name: str, root: Path) -> Path:
    shutil.copytree(SHARED / name, root / name)
    for path in (root / name).rglob("*"):
        path.chmod(0o755)
    return root


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Loads a JSON file, lets `change` mutate it, writes it back."""
    data = json.loads(path.read_text())
    change(data)
    write_json(path, data)


def declare(folder: Path, **counts: dict[str, tuple[int, int]]) -> None:
    """Writes a copy's own counts, (queries, gallery) of each benchmark's splits."""
    write_json(folder / "counts.json", counts)


MEMBERS = [f"dev-{i}-0-img0" for i in range(6)]


def small_cirr(root: Path) -> Path:
    """Three val queries over one image set in a gallery of eight; one test1 query, blank."""
    names = [*MEMBERS, "dev-6-0-img0", "dev-7-0-img0"]
    for split, folder in (("val", "dev"), ("test1", "test1")):
        write_json(
            root / f"CIRR/image_splits/split.rc2.{split}.json",
            {n: f"./{folder}/{n}.png" for n in names},
        )
    rows = [
        {
            "pairid": 100 + i,
            "reference": MEMBERS[i],
            "target_hard": MEMBERS[i + 1],
            "target_soft": {},
            "caption": f"change {i}",
            "img_set": {"id": 1, "members": MEMBERS, "reference_rank": 0, "target_rank": 1},
        }
        for i in range(3)
    ]
    write_json(root / "CIRR/captions/cap.rc2.val.json", rows)
    hidden = {k: v for k, v in rows[0].items() if not k.startswith("target")}
    hidden |= {"pairid": 27098, "caption": " "}
    write_json(root / "CIRR/captions/cap.rc2.test1.json", [hidden])
    declare(root / "CIRR", CIRR={"val": (3, 8), "test": (1, 8)})
    return root


def small_fashioniq(root: Path) -> Path:
    names = ["B000", "B001", "B002", "B003"]
    write_json(root / "FashionIQ/image_splits/split.dress.val.json", names)
    rows = [
        {"candidate": "B000", "target": "B001", "captions": ["is red.", " has sleeves? "]},
        {"candidate": "B001", "target": "B002", "captions": ["", "is longer"]},
        {"candidate": "B002", "target": "B003", "captions": ["is blue", " . "]},
    ]
    write_json(root / "FashionIQ/captions/cap.dress.val.json", rows)
    declare(root / "FashionIQ", **{"FashionIQ-dress": {"val": (3, 4)}})
    return root
