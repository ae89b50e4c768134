"""Any folder of pictures as a gallery: what below it is a picture, and why the rest is not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from imagescope.errors import UserError
from imagescope.files import open_regular
from imagescope.records import Gallery

# Formats that are opened; the name decides what is looked at, the content what it is.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)


@dataclass
class Walk:
    """What lies below a folder.

    pictures: name -> file, for everything that is a picture by its name, sorted by name. Names are
        paths relative to the folder with forward slashes, as they are on disk.
    skipped: name -> reason, for what might be taken for a picture and is not looked at.
    others: how many further files there are (documents, hidden files).
    """

    folder: Path
    pictures: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    others: int = 0

    @property
    def gallery(self) -> Gallery:
        return Gallery(tuple(self.pictures), self.pictures)


def walk(folder: Path) -> Walk:
    """Every picture below a folder, by name alone: nothing is opened.

    Links that lead out of the folder are skipped (what lies outside was not asked for), linked
    folders are not entered, hidden files and folders are left alone. Raises UserError where there
    is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    root = folder.resolve()
    found = Walk(root)
    for name, path in sorted(_files(root, found)):
        reason = _refusal(name, path, root)
        if reason is None:
            found.others += 1
        elif reason:
            found.skipped[name.encode(errors="backslashreplace").decode()] = reason
        else:
            found.pictures[name] = path
    return found


def _files(root: Path, found: Walk) -> Iterator[tuple[str, Path]]:
    def unreadable(error: OSError) -> None:
        where = Path(error.filename).relative_to(root).as_posix()
        found.skipped[f"{where}/"] = f"folder cannot be read: {error.strerror}"

    for place, folders, files in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in files:
            path = Path(place, file)
            yield path.relative_to(root).as_posix(), path


def _refusal(name: str, path: Path, root: Path) -> str | None:
    """Why a file is skipped; '' for a picture, None for a file that does not claim to be one."""
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return "a link that leads out of the folder"
    return "" if path.is_file() else "not a regular file"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
