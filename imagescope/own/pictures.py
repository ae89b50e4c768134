"""The pictures of an index for whoever looks at them: which match a filter, and their files."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field

from imagescope.errors import UserError
from imagescope.files import open_regular
from imagescope.own.answers import Explanation, Result
from imagescope.own.library import Entry, Manifest, thumbnail

EXAMPLES = 3
WORDS = 12  # of an example at most


class Filter(BaseModel):
    """Which pictures are looked at; nothing given leaves none out.

    folder: below the index' folder, with those below it.  format: of a name, such as "jpg".
    since, until: days of the file's time (UTC), both included.
    """

    folder: str = Field(default="", description="pictures in this folder, and below it")
    format: str = Field(default="", description="a name's ending, as in /api/index")
    since: date | None = Field(default=None, description="no file that is older than this day")
    until: date | None = Field(default=None, description="no file that is newer than this day")

    def names(self, manifest: Manifest) -> tuple[str, ...]:
        """The names that match, newest file first."""
        below = f"{self.folder.strip('/')}/" if self.folder.strip("/") else ""
        found = [
            (entry.modified, name)
            for name, entry in manifest.pictures.items()
            if name.startswith(below)
            and (not self.format or format_of(name) == self.format)
            and (self.since is None or self.since <= day(entry))
            and (self.until is None or day(entry) <= self.until)
        ]
        return tuple(name for _, name in sorted(found, key=lambda item: (-item[0], item[1])))


def day(entry: Entry) -> date:
    return datetime.fromtimestamp(entry.modified / 1e9, UTC).date()


def format_of(name: str) -> str:
    """How files of a kind end, spelled in one way."""
    suffix = PurePosixPath(name).suffix.lower().lstrip(".")
    return {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif"}.get(suffix, suffix)


def choices(manifest: Manifest) -> dict[str, Any]:
    """What a filter may name: folders and formats with the number of their pictures, and the first
    and the last day."""
    folders, formats = Counter[str](), Counter[str]()
    for name in manifest.pictures:
        formats[format_of(name)] += 1
        folders.update(str(p) for p in PurePosixPath(name).parents if str(p) != ".")
    by_time = sorted(manifest.pictures.values(), key=lambda entry: entry.modified)
    return {
        "folders": dict(sorted(folders.items())),
        "formats": dict(sorted(formats.items())),
        "days": [day(by_time[0]).isoformat(), day(by_time[-1]).isoformat()],
    }


def examples(manifest: Manifest) -> list[str]:
    """Queries that find something: the beginnings of captions from all over the index."""
    captions = [entry.caption for entry in manifest.pictures.values() if entry.caption.strip()]
    texts = dict.fromkeys(_beginning(text) for text in captions[:: max(1, len(captions) // 50)])
    return list(texts)[:: max(1, len(texts) // EXAMPLES)][:EXAMPLES]


def _beginning(caption: str) -> str:
    """The first sentence, or as much of it as one would type."""
    sentence = re.split(r"(?<=\w)[.;!?](?:\s|$)|\n", caption.strip(), maxsplit=1)[0]
    words = sentence.split()
    if len(words) <= WORDS:
        return sentence
    short = " ".join(words[:WORDS])
    whole = re.match(r"(.+\w)(?:,| and | with | on | in ) ?", short)  # ends where a phrase does
    return whole[1] if whole else short


def result(index: str, manifest: Manifest, name: str) -> Result:
    """A picture that nobody searched for: it has no rank (0) and no score."""
    entry = manifest.pictures[name]
    small = thumbnail(index, entry)
    return Result(
        0, name, manifest.folder / name, small, math.nan, Explanation(entry.caption, None)
    )


def open_picture(manifest: Manifest, name: str) -> BufferedReader:
    """The file of a picture, as it was indexed. Raises UserError for a name that the index does not
    have, and for a file that is gone, has changed since or now leads out of the folder."""
    entry = manifest.pictures.get(name)
    if entry is None:
        raise UserError("the index has no such picture")
    path = manifest.folder / name
    try:
        file = open_regular(path)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from None
    stat = os.fstat(file.fileno())
    inside = Path(os.path.realpath(path)).is_relative_to(manifest.folder)
    if not inside or (stat.st_size, stat.st_mtime_ns) != (entry.size, entry.modified):
        file.close()
        raise UserError(f"{name}: has changed since it was indexed")
    return file


def chunks(file: BufferedReader) -> Iterator[bytes]:
    """A file's bytes; it is closed at the end."""
    with file:
        while part := file.read(1 << 18):
            yield part


def file_manager() -> list[str]:
    """The command that shows a folder (or, where it can, a file in it) in this desktop's file
    manager; [] where there is none."""
    if sys.platform == "darwin":
        return ["open", "-R"]
    if sys.platform == "win32":
        return ["explorer", "/select,"]
    desktop = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    program = shutil.which("xdg-open")
    return [program] if program and desktop else []


def reveal(manifest: Manifest, name: str) -> None:
    """Shows a picture in the file manager of this machine. Raises UserError where there is none,
    and as open_picture does."""
    open_picture(manifest, name).close()
    command = file_manager()
    if not command:
        raise UserError("this machine has no desktop to open a folder on")
    path = manifest.folder / name
    # xdg-open would open the picture; the others show it in its folder
    target = path.parent if len(command) == 1 else path
    quiet = subprocess.DEVNULL
    try:
        subprocess.Popen(
            [*command, str(target)], stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
    except OSError as error:
        raise UserError(f"the file manager cannot be started: {error.strerror}") from None
