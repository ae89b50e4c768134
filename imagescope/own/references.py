"""Reference pictures that visitors upload: decoded once, by our own decoder, and kept small."""

from __future__ import annotations

import re
from pathlib import Path

from imagescope.errors import UserError
from imagescope.own.folder import sha256
from imagescope.own.library import Manifest

SIDE = 2048  # pixels of the longer side at most: more than any model looks at
MOST = 64  # references kept at a time; the oldest make room
UPLOAD = re.compile(r"upload-([0-9a-f]{64})")


class References:
    """What searches start from: pictures of the index, by their names, and uploads, by the hash of
    their content. folder: where uploads are kept."""

    def __init__(self, manifest: Manifest, folder: Path):
        self._manifest, self._folder = manifest, folder
        self._indexed = {entry.sha256: name for name, entry in manifest.pictures.items()}

    def take(self, upload: Path) -> str:
        """The name that a search gives for an uploaded file: that of a picture of the index with
        the same content, else one of our own.

        It is written anew, so that the thread of the models never decodes what a visitor made.
        Raises UserError for what is no picture, without its path.
        """
        from imagescope.models.decoding import UnreadableImage, thumbnail

        content = sha256(upload)
        if name := self._indexed.get(content):
            return name
        try:
            picture = thumbnail(upload, SIDE)
        except UnreadableImage as error:
            raise UserError(str(error).removeprefix(f"{upload}: ")) from None
        files = sorted(self._folder.glob("*.png"), key=lambda path: path.stat().st_mtime_ns)
        for old in files[: max(0, len(files) - MOST + 1)]:
            old.unlink(missing_ok=True)
        picture.save(self._folder / f"{content}.png", compress_level=1)
        return f"upload-{content}"

    def find(self, name: str) -> Path:
        """The file of a reference. Raises UserError where there is no such picture (any more)."""
        if name in self._manifest.pictures:
            return self._manifest.folder / name
        upload = UPLOAD.fullmatch(name)
        path = self._folder / f"{upload[1]}.png" if upload else None
        if path is None or not path.exists():
            raise UserError("the reference picture is not here any more: give it again")
        return path
