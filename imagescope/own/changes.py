"""What lies below an index' folder, and what has changed there since last time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from imagescope.files import replacing
from imagescope.own import library
from imagescope.own.folder import Walk, sha256, walk
from imagescope.own.library import THUMBNAIL, Entry, Manifest, place, thumbnail
from imagescope.progress import track


@dataclass
class Changes:
    """What an update found, by name; `moved` maps the new name to the old."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0


def survey(
    name: str, draft: Manifest, before: Mapping[str, Entry]
) -> tuple[dict[str, Entry], Walk]:
    """The readable pictures of the index' folder (without captions), and what else lies there:
    unreadable ones are added to Walk.skipped.

    A file is hashed if its size or time changed, and opened if its content is new; a thumbnail is
    the proof that it could be read, so an interrupted survey goes on where it stopped. Raises
    UserError where a thumbnail cannot be written.
    """
    below = walk(draft.folder, draft.exclude, library.home())
    with library.writing(place(name) / "thumbnails") as folder:
        folder.mkdir(parents=True, exist_ok=True)

    def examine(item: tuple[str, Path]) -> tuple[str, Entry | str]:
        return item[0], _examine(name, item[1], before.get(item[0]))

    entries = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = pool.map(examine, below.pictures.items())
        for picture, entry in track(results, len(below.pictures), "looking at pictures"):
            if isinstance(entry, Entry):
                entries[picture] = entry
            else:
                below.skipped[picture] = entry
    return entries, below


def _examine(name: str, path: Path, before: Entry | None) -> Entry | str:
    """A picture's entry, or why it is none."""
    from imagescope.models.decoding import UnreadableImage
    from imagescope.models.decoding import thumbnail as shrink

    try:
        stat = path.stat()
        if before and (before.size, before.modified) == (stat.st_size, stat.st_mtime_ns):
            content = before.sha256
        else:
            content = sha256(path)
        entry = Entry(sha256=content, size=stat.st_size, modified=stat.st_mtime_ns)
        small = thumbnail(name, entry)
        if small.exists():
            return entry
        picture = shrink(path, THUMBNAIL)
    except UnreadableImage as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return error.strerror or type(error).__name__
    # outside: what the disk says against a thumbnail is no property of the picture
    with library.writing(small), replacing(small, durable=False) as part:
        picture.save(part, "JPEG", quality=85)
    return entry


def compare(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> Changes:
    """What became of the pictures: by name, and by content where a name is gone."""
    gone: dict[str, list[str]] = {}
    for name in old.keys() - new.keys():
        gone.setdefault(old[name].sha256, []).append(name)
    changes = Changes()
    for name, entry in new.items():
        if name in old:
            if old[name].sha256 == entry.sha256:
                changes.unchanged += 1
            else:
                changes.changed.append(name)
        elif before := gone.get(entry.sha256):
            changes.moved[name] = before.pop()
        else:
            changes.new.append(name)
    changes.removed = sorted(name for left in gone.values() for name in left)
    return changes
