"""The six benchmarks in small, laid out exactly as their authors lay them out.

Only benchmark scenes occur (scenes.split_of). The same seed writes the same bytes.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from imagescope.benchmarks import Source, Spec, specs
from imagescope.benchmarks.source import COUNTS
from imagescope.errors import UserError
from imagescope_tiny.datasets_composed import write_circo, write_cirr, write_fashioniq
from imagescope_tiny.dialogues import can_talk, dialogue
from imagescope_tiny.families import families
from imagescope_tiny.language import free_caption
from imagescope_tiny.scenes import Scene, draw

VERSION = 2  # raise it when anything that is written changes
MANIFEST = "manifest.json"
IMAGES_PER_CSV, OTHER_ROWS, CAPTIONS = 200, 20, 5
DIALOGUES, POOL = 60, 600
FAMILY = 5


def make(root: Path, seed: int = 0, force: bool = False) -> dict[str, int]:
    """Writes the six datasets below `root`, each in place of what stood there; leaves complete
    ones of this seed and version alone.

    Returns the number of files of each dataset.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot be written: {error.strerror}") from None
    counts = {}
    for name, write in WRITERS.items():
        folder = root / name
        files = None if force else _complete(folder, seed)
        if files is None:
            part = Path(tempfile.mkdtemp(dir=root, prefix=f".{name}-"))
            try:
                write(part, Random(f"{name}/{seed}"))
                _declare_counts(part, name)
                files = _seal(part, seed)
                part.chmod(0o755)
                if folder.exists():
                    shutil.rmtree(folder)
                os.replace(part, folder)
            except BaseException:
                shutil.rmtree(part, ignore_errors=True)
                raise
        counts[name] = files
    return counts


def _declare_counts(folder: Path, name: str) -> None:
    """Writes counts.json: the counts of this small copy, which `data check` holds it to."""
    counts = {
        spec.name: {split: _counts(spec, folder, split) for split in spec.splits}
        for spec in specs()
        if spec.folder == name
    }
    _write_json(folder / COUNTS, counts)


def _counts(spec: Spec, folder: Path, split: str) -> tuple[int, int]:
    queries, gallery = spec.read(Source(folder.parent, folder, split, spec.choose({})))
    return len({query.id for query in queries}), len(gallery.names)


def _seal(folder: Path, seed: int) -> int:
    """Writes the manifest: version, seed, and the size of every file in bytes."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"version": VERSION, "seed": seed, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return len(files)


def _complete(folder: Path, seed: int) -> int | None:
    """The number of files, where all are there as the manifest says; else None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["version"], manifest["seed"]) != (VERSION, seed):
            return None
        for name, size in manifest["files"].items():
            if (folder / name).stat().st_size != size:
                return None
        return len(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_flickr30k(root: Path, rng: Random) -> None:
    columns = ("raw", "sentids", "split", "filename", "img_id")
    names = [f"{1000 + 7 * i}.jpg" for i in range(IMAGES_PER_CSV + OTHER_ROWS)]
    _write_captions(root, "test_1k_flickr.csv", columns, names, rng)


def write_mscoco(root: Path, rng: Random) -> None:
    columns = ("filepath", "sentids", "filename", "img_id", "split", "raw", "cocoid")
    names = [f"COCO_val2014_{_cocoid(i):012}.jpg" for i in range(IMAGES_PER_CSV + OTHER_ROWS)]
    _write_captions(root, "test_5k_mscoco_2014.csv", columns, names, rng)


def _cocoid(i: int) -> int:
    return 300 + 11 * i


def _write_captions(
    root: Path, table: str, columns: Sequence[str], names: Sequence[str], rng: Random
) -> None:
    """A table of images with five captions each: families of near-twins to be found (split test)
    and some rows of other splits, in one random order."""
    scenes = [s for members, _ in families(rng, len(names) // FAMILY, FAMILY) for s in members]
    rows: list[dict[str, Any]] = []
    (root / "images").mkdir()
    for i, (name, scene) in enumerate(zip(names, scenes, strict=True)):
        draw(scene).save(root / "images" / name, quality=95)
        rows.append(
            {
                "raw": json.dumps([free_caption(scene, rng) for _ in range(CAPTIONS)]),
                "sentids": json.dumps([CAPTIONS * i + k for k in range(CAPTIONS)]),
                "split": "test" if i < IMAGES_PER_CSV else ("train", "val")[i % 2],
                "filename": name,
                "img_id": i,
                "filepath": "val2014",
                "cocoid": _cocoid(i),
            }
        )
    rng.shuffle(rows)
    with open(root / table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_visdial(root: Path, rng: Random) -> None:
    scenes = [s for members, _ in families(rng, POOL // FAMILY, FAMILY) for s in members]
    rng.shuffle(scenes)
    names = [f"unlabeled2017/{8 + 16 * i:012}.jpg" for i in range(len(scenes))]
    (root / "unlabeled2017").mkdir()
    for name, scene in zip(names, scenes, strict=True):
        draw(scene).save(root / name, quality=95)
    targets = [i for i, scene in enumerate(scenes) if _talkative(scene)]
    dialogues = []
    for i in rng.sample(targets, DIALOGUES):
        talk = dialogue(scenes[i], rng)
        texts = [talk.caption, *(turn.text for turn in talk.rounds)]
        dialogues.append({"img": names[i], "dialog": texts})
    _write_json(root / "Search_Space_val_50k.json", names)
    _write_json(root / "VisDial_v1.0_queries_val.json", dialogues)


def _talkative(scene: Scene) -> bool:
    """Whether there is something to say in ten rounds."""
    return can_talk(scene) and len(scene.things) > 1


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Random], None]] = {
    "CIRR": write_cirr,
    "CIRCO": write_circo,
    "FashionIQ": write_fashioniq,
    "Flickr30K": write_flickr30k,
    "MSCOCO": write_mscoco,
    "VisDial": write_visdial,
}
