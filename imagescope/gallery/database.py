"""A gallery's captions and embeddings on disk, with the manifests that say what made them.

    image_db/<DATASET>/<split>-<hash of the names>/
        names.json
        captions/<captioner>-<hash>/        captions.jsonl, manifest.json
        images/<encoder>-<hash>/            see vectors.py
        texts/<captioner>-<hash>+<encoder>-<hash>/

The hashes are of what determines the content: the gallery's names; the captioner's checkpoint,
decoding and prompt; the encoder's checkpoint and settings. Rows are found again by the content of
the image or caption, so that a changed gallery costs only what is new in it.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.arrays import Array
from imagescope.encoders.base import Encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.engines.base import Picture, Request
from imagescope.engines.role import Role
from imagescope.errors import UserError
from imagescope.files import write_json
from imagescope.gallery.caption_file import read_captions, write_captions
from imagescope.gallery.vector_store import VectorStore
from imagescope.gallery.vectors import GalleryVectors, read_manifest
from imagescope.models.images import UnreadableImage, load_picture
from imagescope.records import Gallery, Item
from imagescope.store.cache import Cache
from imagescope.store.hashing import digest

log = logging.getLogger("imagescope")
Embedded = Iterator[tuple[Array, dict[int, str]]]
LONGEST = 1 << 20  # no limit but the role's own
DECODING = ("max_tokens", "repetition_penalty", "stop")


class ImageDB:
    """One gallery's part of the image database; see the module.

    With a bundle instead of a cache (a replay) everything comes from there and nothing is written.
    counts: (wanted, known, computed) vectors, after vectors().
    """

    def __init__(self, folder: Path, gallery: Gallery, cache: Cache):
        self.folder, self._gallery, self._cache = folder, gallery, cache
        self.counts = (0, 0, 0)
        self._captioner = "captions"
        self._described: dict[str, Any] = {"folder": str(folder), "images": len(gallery.names)}
        self._bundled: tuple[str, dict[str, tuple[Array, int]]] | None = None

    @classmethod
    def open(
        cls, root: str | Path, dataset: str, split: str, gallery: Gallery, cache: Cache
    ) -> ImageDB:
        """The database of a gallery; nothing is read, made or written yet but its names.

        Raises UserError where the gallery is empty or the folder cannot be written.
        """
        if not gallery.names:
            raise UserError(f"{dataset} {split}: the gallery is empty")
        names = list(gallery.names)
        folder = Path(root) / _slug(dataset) / f"{_slug(split)}-{digest(names)[:8]}"
        if not cache.bundle:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not (folder / "names.json").exists():
                    write_json(folder / "names.json", names, indent=0)
            except OSError as error:
                raise UserError(
                    f"{folder}: cannot be written: {error.strerror}: give another --image-db"
                ) from None
        return cls(folder, gallery, cache)

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """name -> sha256 of the image file, "" where it cannot be read; the gallery's names first,
        then the further images (references outside the gallery)."""
        files = self._gallery.files
        names = dict.fromkeys((*self._gallery.names, *files))
        content = self._cache.hashes([str(files[name]) for name in names if name in files])
        hashes = {name: content[str(files[name])] if name in files else "" for name in names}
        lost = [name for name in self._gallery.names if not hashes[name]]
        if len(lost) == len(self._gallery.names):
            raise UserError(
                f"none of the gallery's {len(lost)} images can be read; the first is "
                f"{files.get(lost[0], lost[0])}. Are they downloaded? (imagescope doctor)"
            )
        return hashes

    def captions(
        self, captioner: Role, prompt: str, only: Collection[str] | None = None
    ) -> dict[str, str]:
        """name -> caption of every image, in- and outside the gallery, that could be captioned.

        only: names of the images that are needed; None: all.  Captions that the response cache
        lacks but this gallery's file has are taken from there.
        """
        made_by = {
            "captioner": captioner.engine.identity,
            "decoding": {name: getattr(captioner.config, name) for name in DECODING},
            "prompt": prompt,
        }
        self._captioner = f"{_slug(captioner.config.model)}-{digest(made_by)[:8]}"
        folder = self.folder / "captions" / self._captioner
        manifest = {} if self._cache.bundle else read_manifest(folder, made_by)
        read = read_captions(folder / "captions.jsonl", manifest) if manifest else {}
        kept = {sha: caption for sha, caption in read.items() if caption}  # others are asked again
        unreadable: dict[str, str] = dict(manifest.get("unreadable", {}))  # sha256 -> why
        skipped = {
            name: unreadable.get(sha, "the file cannot be read")
            for name, sha in self.hashes.items()
            if not sha or sha in unreadable
        }
        files = self._gallery.files
        names = [n for n in self.hashes if n not in skipped and (only is None or n in only)]
        requests = [
            Request(prompt, (Picture(str(files[name])),), max_tokens=LONGEST) for name in names
        ]
        stored = [n for n, name in enumerate(names) if self.hashes[name] in kept]
        if stored and captioner.missing(requests):
            texts = [kept[self.hashes[names[n]]] for n in stored]
            captioner.adopt([requests[n] for n in stored], texts)
            log.info("captions: %d from %s", len(stored), folder)
        responses = dict(zip(names, captioner.ask(requests, "captions", names), strict=True))
        captions = {name: response.text.strip() for name, response in responses.items()}
        for name in [name for name, caption in captions.items() if not caption]:
            skipped[name] = responses[name].error or "the captioner said nothing"
            if why := _unreadable(files[name]):  # nor will it be the next time
                unreadable[self.hashes[name]] = why
        captions = {name: caption for name, caption in captions.items() if caption}
        self._lose(name for name, sha in self.hashes.items() if sha in unreadable)
        if skipped:
            first = next(iter(skipped.items()))
            log.warning("%d images have no caption; the first: %s: %s", len(skipped), *first)
        self._described["captions"] = {"made": len(captions), "missing": skipped}
        if not self._cache.bundle:
            rows = {
                name: (sha, captions.get(name) or ("" if name in names else kept.get(sha, "")))
                for name, sha in self.hashes.items()
            }
            write_captions(folder, made_by, rows, {"skipped": skipped, "unreadable": unreadable})
        return captions

    def vectors(
        self, encoder: Encoder, texts: CachedEncoder, captions: Mapping[str, str] | None = None
    ) -> GalleryVectors:
        """Embeddings of every image of the gallery, and of its captions where they are given,
        memory-mapped; computes what is new. An image without a caption has its image vector in the
        caption's place."""
        names, size = self._gallery.names, encoder.config.chunk_size
        shas = [self.hashes[name] for name in names]
        plain = None if captions is None else [captions.get(name, "") for name in names]
        if self._cache.bundle:
            return self._replayed(texts, shas, plain)
        made_by = texts.made_by("gallery")
        mine = f"{_slug(encoder.config.model)}-{digest(made_by)[:8]}"
        items = {
            sha: Item(images=(self._gallery.files[name],))
            for name, sha in zip(names, shas, strict=True)
            if sha
        }

        def embed_images(chunks: list[list[str]]) -> Embedded:
            return encoder.embed_chunks(
                ([items[key] for key in keys] for keys in chunks), "gallery"
            )

        store = self._store(f"images/{mine}", {"encoder": made_by})
        images, ok, computed = store.rows(shas, embed_images, size, "embedding images")
        self._report(store, shas, ok)
        places = {_image(texts, sha): (images, n) for n, sha in enumerate(shas) if ok[n]}
        self._bundled = (texts.space, places)
        self.counts = (len(names), len(names) - computed, computed)
        if plain is None:
            return GalleryVectors(names, images, images, ok)

        keys = [
            _key(caption) if caption else sha if fine else ""
            for caption, sha, fine in zip(plain, shas, ok, strict=True)
        ]
        said = {_key(caption): caption for caption in plain if caption}
        row = {sha: n for n, sha in enumerate(shas)}

        def embed_captions(chunks: list[list[str]]) -> Embedded:
            worded = ([Item(said[key]) for key in keys if key in said] for keys in chunks)
            embedded = encoder.embed_chunks(worded, "gallery")
            for keys, (vectors, _) in zip(chunks, embedded, strict=True):
                rows = iter(vectors)
                yield np.stack([next(rows) if k in said else images[row[k]] for k in keys]), {}

        made = {"encoder": made_by, "captioner": self._captioner}
        store = self._store(f"texts/{self._captioner}+{mine}", made)
        worded, _, more = store.rows(keys, embed_captions, size, "embedding captions")
        total = 2 * len(names)
        self.counts = (total, total - computed - more, computed + more)
        places |= {_worded(texts, c): (worded, n) for n, c in enumerate(plain) if c}
        return GalleryVectors(names, images, worded, ok)

    def bundle(self, size: int = 1024) -> Iterator[tuple[str, dict[str, Array]]]:
        """What vectors() came to, for Cache.export: batches of (space, key -> vector)."""
        if self._bundled is None:
            return
        space, places = self._bundled
        keys = list(places)
        for first in range(0, len(keys), size):
            batch = {key: places[key] for key in keys[first : first + size]}
            yield space, {key: array[row] for key, (array, row) in batch.items()}

    def describe(self) -> dict[str, Any]:
        """For the run's manifest: where the database lies, counts, and what was left out."""
        return self._described

    def remove_others(self) -> None:
        """Removes the other galleries of this dataset and split: this one has taken their place.

        For galleries that change, once vectors() has taken over what they share.
        """
        split = self.folder.name.rpartition("-")[0]
        for folder in self.folder.parent.iterdir():
            if folder != self.folder and re.fullmatch(
                re.escape(split) + "-[0-9a-f]{8}", folder.name
            ):
                shutil.rmtree(folder, ignore_errors=True)

    def _store(self, name: str, made_by: dict[str, Any]) -> VectorStore:
        relatives = [
            f for f in self.folder.parent.glob(f"*/{name}") if self.folder not in f.parents
        ]
        return VectorStore(self.folder / name, made_by, relatives)

    def _report(self, store: VectorStore, images: list[str], ok: Array) -> None:
        """Counts and names what is left out of the ranking, here and in the store's manifest."""
        why = store.manifest.get("unreadable", {})
        lost = [n for n, fine in enumerate(ok) if not fine]
        skipped = {
            self._gallery.names[n]: why.get(images[n], "the file cannot be read") for n in lost
        }
        if skipped:
            first = next(iter(skipped.items()))
            log.warning("%d images are not ranked; the first: %s: %s", len(skipped), *first)
        store.record(skipped=skipped)
        self._lose(name for name in skipped if self.hashes[name])
        self._described["embedded"] = int(ok.sum())
        self._described["skipped"] = skipped
        if not ok.any():
            raise UserError(f"no image of the gallery can be read: {next(iter(skipped.values()))}")

    def _lose(self, names: Iterable[str]) -> None:
        files = self._gallery.files
        self._cache.lose(str(files[name]) for name in names if name in files)

    def _replayed(
        self, texts: CachedEncoder, images: list[str], captions: list[str] | None
    ) -> GalleryVectors:
        """Everything from the bundle; what it has no vector of could not be read then either."""
        keys = [_image(texts, sha) for sha in images]
        seen = self._cache.vectors(texts.space, [key for key in keys if key])
        given = captions or [""] * len(images)
        worded = {caption: _worded(texts, caption) for caption in given if caption}
        said = self._cache.vectors(texts.space, list(worded.values()))
        if not seen or not all(key in said for key in worded.values()):
            raise UserError(
                f"{self._cache.path}: lacks vectors of this gallery's images. Replay with the "
                "options of the run that was exported."
            )
        width = len(next(iter(seen.values())))
        vectors = np.zeros((2, len(keys), width), np.float32)
        for n, (key, caption) in enumerate(zip(keys, given, strict=True)):
            if key in seen:
                vectors[0, n] = seen[key]
                vectors[1, n] = said[worded[caption]] if caption else seen[key]
        ok = np.array([key in seen for key in keys], bool)
        total = len(keys) * (1 if captions is None else 2)
        self.counts = (total, total, 0)
        return GalleryVectors(self._gallery.names, vectors[0], vectors[1], ok)


def _slug(text: str) -> str:
    """A name as part of a path: the last part of a model's id or folder, plain characters only."""
    last = text.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last).strip(".-")[:60] or "unnamed"


def _key(caption: str) -> str:
    return hashlib.sha256(caption.encode("utf-8", "replace")).hexdigest()


def _image(encoder: CachedEncoder, sha: str) -> str:
    return encoder.key(f"image:{sha}", "gallery") if sha else ""


def _worded(encoder: CachedEncoder, caption: str) -> str:
    """A caption's key in a bundle: not that of a description in the same words, which was embedded
    in another batch and may differ in the last digits."""
    return encoder.key(f"caption:{_key(caption)}", "gallery")


def _unreadable(path: Path) -> str:
    """Why an image file cannot be read; "" where it can."""
    try:
        load_picture(path)
    except UnreadableImage as error:
        return str(error)
    return ""
