"""Reference pictures that visitors upload: decoded once, by our own decoder, and kept small."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from pathlib import Path

from PIL import Image

from imagescope.errors import UserError
from imagescope.own import library, show
from imagescope.own.folder import sha256
from imagescope.own.scope import ImageScope

SIDE = 2048  # pixels of the longer side at most: more than any model looks at
MOST = 64  # references kept at a time; the oldest make room


class References:
    """What became of uploads. scope: the index that is searched.  uploads: the folder that they
    are stored in; nothing outside is taken for one."""

    def __init__(self, scope: ImageScope, uploads: Path):
        self._scope, self._uploads = scope, uploads.resolve()
        self._folder = uploads / "references"
        self._indexed = {entry.sha256: name for name, entry in scope.manifest.pictures.items()}

    def take(self, upload: str) -> tuple[Path, str]:
        """The file that is searched with, and the picture as HTML; the upload itself goes.

        A picture of the index is that; any other is written anew, so that the thread of the models
        never decodes what a visitor made. Raises UserError for what is no upload or no picture,
        without its path.
        """
        from imagescope.models.decoding import UnreadableImage, thumbnail

        path = Path(upload).resolve()
        if not path.is_relative_to(self._uploads) or path.is_relative_to(self._folder):
            raise UserError("it must be uploaded")
        try:
            content = sha256(path)
            if name := self._indexed.get(content):
                small = library.thumbnail(self._scope.name, self._scope.manifest.pictures[name])
                return self._scope.files[name], picture_tag(show.data_uri(small))
            picture = thumbnail(path, SIDE)
        except UnreadableImage as error:
            raise UserError(str(error).removeprefix(f"{path}: ")) from None
        except OSError as error:
            raise UserError(error.strerror or "it is gone") from None
        finally:
            with suppress(OSError):
                path.unlink()
        file = self._write(picture, content)
        picture.thumbnail((library.THUMBNAIL, library.THUMBNAIL))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG")
        encoded = base64.b64encode(buffer.getvalue()).decode()
        return file, picture_tag(f"data:image/jpeg;base64,{encoded}")

    def _write(self, picture: Image.Image, content: str) -> Path:
        self._folder.mkdir(exist_ok=True)
        files = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for old in files[: max(0, len(files) - MOST + 1)]:
            old.unlink(missing_ok=True)
        file = self._folder / f"{content}.png"
        picture.save(file, compress_level=1)
        return file


def picture_tag(address: str) -> str:
    return f'<img src="{address}" alt="reference picture">'
