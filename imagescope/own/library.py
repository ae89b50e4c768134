"""Indexes of folders of pictures, below a folder of the user's (IMAGESCOPE_HOME).

    <home>/indexes/<name>/index.json          what was indexed, with which models and prompts
                          vectors-<id>.npy    a row a picture: its image and its caption vector
                          thumbnails/<sha256>.jpg
    <home>/image_db/                          captions, embeddings and answers, by content

index.json names the file of vectors that belongs to it and is written last, so whoever reads
while an index is updated sees the old one or the new one, whole.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from imagescope import __version__
from imagescope.arrays import Array
from imagescope.config import EngineName, ModelSet, RunConfig
from imagescope.errors import UserError
from imagescope.files import replacing, write_json
from imagescope.models.device import visible_gpus

log = logging.getLogger("imagescope")
NAME = re.compile(r"\w([\w.-]{0,58}\w)?")
FORMAT = 1  # of index.json
THUMBNAIL = 384  # pixels, the longer side


class Entry(BaseModel):
    """A picture of an index: its content's hash, what tells cheaply that it has not changed
    (bytes and nanoseconds), and its caption."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    size: int
    modified: int
    caption: str = ""


class Manifest(BaseModel):
    """index.json. `pictures` is in the order of the vectors' rows; `encoder` and `captioner` are
    the identities of the models that made it; `exclude` are the patterns of --exclude; `seconds`
    is what one picture took the last time a model was asked: {"captions": …, "vectors": …}."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    version: int = FORMAT
    imagescope: str = __version__
    updated: str
    folder: Path
    models_name: str
    models: ModelSet
    engine: EngineName
    prompts: str
    caption_prompt: str
    captioner: dict[str, Any]
    encoder: dict[str, Any]
    vectors: str
    pictures: dict[str, Entry]
    skipped: dict[str, str]
    exclude: tuple[str, ...] = ()
    seconds: dict[str, float] = {}

    @property
    def captioned(self) -> bool:
        """Whether its pictures have captions; without them the encoder alone searches."""
        return bool(self.captioner)


def home() -> Path:
    """IMAGESCOPE_HOME, else the platform's place for a user's data."""
    if folder := os.environ.get("IMAGESCOPE_HOME"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "imagescope"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home()) / "imagescope"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "imagescope"


def place(name: str) -> Path:
    """The folder of an index. Raises UserError for a name that is none."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot name an index: letters, digits, '-', '_' and '.' can")
    return home() / "indexes" / name


def names() -> list[str]:
    """The indexes that there are."""
    return sorted(path.parent.name for path in (home() / "indexes").glob("*/index.json"))


def read_manifest(name: str) -> Manifest:
    """An index's description. Raises UserError for one that is missing or damaged."""
    path = place(name) / "index.json"
    try:
        content = path.read_bytes()
        # fields that came, or went, with other versions are no reason to refuse it
        manifest = Manifest.model_validate_json(content, extra="ignore")
    except FileNotFoundError:
        there = ", ".join(names()) or "none yet"
        raise UserError(
            f"no index {name!r} in {home()} (there: {there}). "
            f"Make it with: imagescope index FOLDER --name {name}"
        ) from None
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{path}: not a readable index: {error}. Remove it and index the folder again; "
            "captions and embeddings are kept elsewhere and are not lost."
        ) from None
    if manifest.version > FORMAT:
        raise UserError(
            f"{path} was written by a newer version of ImageScope (format {manifest.version}, here "
            f"{FORMAT}): use that version, or index the folder again under another name"
        )
    return manifest


def describe(name: str) -> dict[str, Any]:
    """What there is to say of an index, as plain values; bytes: what its folder takes, and what
    the image database holds for it alone. Raises UserError as read_manifest."""
    manifest = read_manifest(name)
    models = manifest.models
    files = [path for folder in _folders(name) for path in folder.rglob("*") if path.is_file()]
    return {
        "name": name,
        "folder": str(manifest.folder),
        "pictures": len(manifest.pictures),
        "captions": manifest.captioned,
        "updated": manifest.updated,
        "bytes": sum(path.stat().st_size for path in files),
        "models": manifest.models_name,
        "checkpoints": {role: getattr(models, role).model for role in (*models.roles, "encoder")},
        "engine": manifest.engine,
        "prompts": manifest.prompts,
        "exclude": list(manifest.exclude),
        "skipped": dict(manifest.skipped),
    }


def rename(name: str, new: str) -> None:
    """Gives an index another name. Raises UserError where that is taken or no name."""
    read_manifest(name)
    if place(new).exists():
        raise UserError(f"there is an index {new!r} already")
    for folder, target in zip(_folders(name), _folders(new), strict=True):
        with writing(target):
            if folder.is_dir():
                shutil.rmtree(target, ignore_errors=True)  # of an index that is gone
                folder.rename(target)


def remove(name: str) -> None:
    """Removes an index, and what the image database holds for it alone. Models' answers stay."""
    read_manifest(name)
    for folder in _folders(name):
        with writing(folder):
            if folder.is_dir():
                shutil.rmtree(folder)


def _folders(name: str) -> tuple[Path, Path]:
    """An index' own folder, and the image database's of the same name."""
    return place(name), home() / "image_db" / name


def settings(
    manifest: Manifest, models: ModelSet | None = None, engine: EngineName | None = None
) -> RunConfig:
    """The configuration under which an index is made and searched.

    Where `auto` could take vLLM without a GPU, it is transformers: one question at a time is
    answered sooner, and nothing has to start.
    """
    chosen, engine = models or manifest.models, engine or manifest.engine
    if engine == "auto" and not visible_gpus():
        plain = {
            name: chosen.role(name).model_copy(update={"engine": "transformers"})
            for name in chosen.roles
            if not (chosen.role(name).engine or chosen.role(name).base_url)
        }
        chosen = chosen.model_copy(update=plain)
    return RunConfig.model_validate(
        {
            "dataset": "folder",
            "image_db": home() / "image_db",
            "models": chosen.model_dump(),
            "models_name": manifest.models_name,
            "prompts": manifest.prompts,
            "engine": engine,
        }
    )


def thumbnail(name: str, entry: Entry) -> Path:
    """Where a picture's thumbnail lies: a JPEG whose longer side is at most THUMBNAIL pixels."""
    return place(name) / "thumbnails" / f"{entry.sha256}.jpg"


def write_vectors(name: str, images: Array, captions: Array) -> str:
    """Stores unit vectors float32 (n, d) of images and captions as rows [v, c], float32 (n, 2d);
    returns the file's name.

    With the query [(1 - tau) t, tau t] the inner product is (1 - tau) t.v + tau t.c, stage 1's
    score, for any tau.
    """
    import numpy as np

    file = f"vectors-{time.time_ns():x}.npy"
    with writing(place(name) / file) as path, replacing(path) as part, part.open("wb") as stream:
        np.save(stream, np.hstack([images, captions]).astype(np.float32))
    return file


def read_vectors(name: str, manifest: Manifest) -> Array:
    """float32 (n, 2d), a row [v, c] a picture. Raises UserError where the file is missing,
    damaged or not this index' own."""
    path = place(name) / Path(manifest.vectors).name
    try:
        rows = _read_faiss(path) if path.suffix == ".faiss" else _read_npy(path)
    except ImportError:
        raise UserError(
            f"{path}: was written with faiss, which is not installed here. {_again(name, manifest)}"
        ) from None
    except Exception as error:  # what reads a damaged file raises anything
        why = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(f"{path}: cannot be read: {why}. {_again(name, manifest)}") from None
    if len(rows) != len(manifest.pictures):
        counts = f"{len(rows)} vectors for {len(manifest.pictures)} pictures"
        raise UserError(f"{path}: {counts}. {_again(name, manifest)}")
    return rows


def _read_npy(path: Path) -> Array:
    import numpy as np

    rows: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] % 2:
        raise ValueError(f"{rows.dtype} {rows.shape} is no table of vectors")
    return rows


def _read_faiss(path: Path) -> Array:
    """The vectors as they were kept in version 0.1."""
    import faiss

    index = faiss.read_index(str(path))
    rows: Array = index.reconstruct_n(0, index.ntotal)
    return rows


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """The path to be written; what the disk says against it becomes a UserError."""
    try:
        yield path
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written: {error.strerror or error} "
            "(the variable IMAGESCOPE_HOME names another place)"
        ) from None


def writable_cache(path: Path) -> Path:
    """The cache's file, or a copy of it where it lies on a disk that cannot be written: answers in
    it are read, new ones are lost when the process ends."""
    places = [place for place in (path.parent, path) if place.exists()]
    if all(os.access(place, os.W_OK) for place in places):
        return path
    copy = Path(tempfile.mkdtemp(prefix="imagescope-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    log.warning("%s cannot be written: new answers are not kept", path)
    with writing(copy):
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(part, copy / part.name)
    return copy / path.name


def _again(name: str, manifest: Manifest) -> str:
    return f"Make it again with: imagescope index {manifest.folder} --name {name}"


def write_manifest(name: str, manifest: Manifest, before: Manifest | None = None) -> None:
    """Writes index.json, then removes older vectors (those of `before` may still be being read)."""
    folder = place(name)
    with writing(folder / "index.json") as file:
        write_json(file, manifest.model_dump(mode="json"), indent=1)
    keep = {manifest.vectors, before.vectors if before else ""}
    for path in folder.glob("vectors-*"):
        if path.name not in keep:
            path.unlink(missing_ok=True)
