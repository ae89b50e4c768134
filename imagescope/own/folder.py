"""Any folder of pictures as a gallery: what below it is a picture, and why the rest is not."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from imagescope.errors import UserError
from imagescope.files import open_regular
from imagescope.records import Gallery

# Formats that are opened; the name decides what is looked at, the content what it is.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
)


# What machines put beside pictures: copies in small, what was thrown away, system folders. As
# patterns of --exclude; folders whose name begins with a dot are left alone in any case.
MACHINES = (
    *("@eaDir", "@Recycle", "@Recycly", "@__thumb", "@tmp", "#recycle", "#snapshot"),  # servers
    *("$RECYCLE.BIN", "RECYCLER", "RECYCLED", "System Volume Information", "found.[0-9][0-9][0-9]"),
    *("__MACOSX", "Network Trash Folder", "Temporary Items", "iPod Photo Cache"),
    *("lost+found", "*.lrdata"),
    *(f"*.photoslibrary/{part}" for part in ("resources", "database", "private", "scopes")),
    *(
        f"*.{kind}/{part}"
        for kind in ("photolibrary", "migratedphotolibrary", "aplibrary")
        for part in ("Thumbnails", "Previews", "Database", "resources")
    ),
)
OWN = "ImageScope's own folder"


@dataclass
class Walk:
    """What lies below a folder.

    pictures: name -> file, for everything that is a picture by its name, sorted by name. Names are
        paths relative to the folder with forward slashes, as they are on disk.
    skipped: name -> reason, for what might be taken for a picture and is not looked at.
    excluded: pattern -> how many files and folders it left out.
    others: how many further files there are (documents, hidden files).
    """

    folder: Path
    pictures: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    excluded: Counter[str] = field(default_factory=Counter)
    others: int = 0

    @property
    def gallery(self) -> Gallery:
        return Gallery(tuple(self.pictures), self.pictures)

    def skip(self, name: str, reason: str) -> None:
        self.skipped[name.encode(errors="backslashreplace").decode()] = reason


def walk(folder: Path, exclude: Sequence[str] = (), own: Path | None = None) -> Walk:
    """Every picture below a folder, by name alone: nothing is opened.

    Links that lead out of the folder are skipped (what lies outside was not asked for), linked
    folders are not entered, hidden files and folders and those of MACHINES are left alone. What
    cannot be looked at is skipped with the reason. Raises UserError where there is no such folder.

    exclude: patterns (* ? [..], in any case) of what else is left out: with a slash of the path
        below the folder, else of a file's or folder's name.  own: a folder that is left out, too.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    root = folder.resolve()
    survey = Walk(root)
    patterns = [(p, p.lower().removeprefix("./").strip("/")) for p in (*exclude, *MACHINES)]
    for name, path in sorted(_files(survey, patterns, own.resolve() if own else None)):
        reason = _refusal(name, path, root)
        if reason is None:
            survey.others += 1
        elif reason:
            survey.skip(name, reason)
        else:
            survey.pictures[name] = path
    return survey


def _files(
    survey: Walk, patterns: Sequence[tuple[str, str]], own: Path | None
) -> Iterator[tuple[str, Path]]:
    """(name, path) of every file that no pattern leaves out."""
    folders = [("", survey.folder)]
    while folders:
        prefix, place = folders.pop()
        try:
            with os.scandir(place) as listing:
                entries = list(listing)
        except OSError as error:
            survey.skip(prefix or "./", f"folder cannot be read: {error.strerror or error}")
            continue
        for entry in entries:
            name, path = prefix + entry.name, place / entry.name
            is_folder = _is_folder(entry)
            if is_folder and entry.name.startswith("."):
                continue
            pattern = OWN if path == own else _excluded(name, patterns)
            if pattern:
                survey.excluded[pattern] += 1
            elif not is_folder:
                yield name, path
            elif not entry.is_symlink():
                folders.append((f"{name}/", path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or leads to one; where that cannot be known it is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _excluded(name: str, patterns: Sequence[tuple[str, str]]) -> str | None:
    """The first pattern that leaves a file or folder out, as it was given."""
    lower = name.lower()
    last = lower.rpartition("/")[2]
    for original, pattern in patterns:
        if pattern and fnmatchcase(lower if "/" in pattern else last, pattern):
            return original
    return None


def _refusal(name: str, path: Path, root: Path) -> str | None:
    """Why a file is skipped; '' for a picture, None for a file that does not claim to be one."""
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    try:
        mode = path.stat().st_mode
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            return "a link that leads out of the folder"
    except OSError as error:  # a link to itself, a name too long, gone, not to be looked at
        return error.strerror or str(error)
    return "" if stat.S_ISREG(mode) else "not a regular file"


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
