"""Searching an index: the stages one by one, with the models kept in memory between queries."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from imagescope.benchmarks import specs
from imagescope.config import (
    PACKAGE,
    ROLES,
    EngineName,
    ModelSet,
    RunConfig,
    config_path,
    load_models,
)
from imagescope.engines import is_remote
from imagescope.engines.base import Picture, Request
from imagescope.errors import UserError
from imagescope.gallery.vectors import GalleryVectors
from imagescope.methods.base import Method, open_method
from imagescope.methods.imagescope import STAGES
from imagescope.methods.prompts import Prompts, load_prompts
from imagescope.own import library
from imagescope.own.answers import Answer, Explanation, Result, State
from imagescope.own.context import IndexContext
from imagescope.own.folder import sha256
from imagescope.records import Query, Synthesis

SHARE = 0.9  # of a GPU's memory, for all roles together


class ImageScope:
    """An index of your own pictures, opened for searching.

        with ImageScope.open("holidays") as scope:
            for result in scope.search("a dog on a beach"):
                print(result.rank, result.path, result.explanation.passed)

    Models are loaded at the first question that needs them. Not for several threads at once: the
    cache of answers has one connection.
    """

    def __init__(
        self, name: str, manifest: library.Manifest, config: RunConfig, resident: bool = True
    ):
        """Use `ImageScope.open`."""
        from imagescope.store.cache import Cache, cache_path

        self.name, self.manifest = name, manifest
        self.config = config
        self.names = tuple(manifest.pictures)
        self.files = {n: manifest.folder / n for n in self.names}
        rows = library.read_vectors(name, manifest)
        width, ok = rows.shape[1] // 2, np.ones(len(rows), bool)
        vectors = GalleryVectors(self.names, rows[:, :width], rows[:, width:], ok)
        self._prompts = load_prompts(self.config.prompts, "folder")
        self._talk = self._dialogue_prompts()
        captions = {n: entry.caption for n, entry in manifest.pictures.items()}
        with ExitStack() as stack:
            path = library.writable_cache(cache_path(config))
            cache = stack.enter_context(Cache.open(path, record=False))
            self._context = IndexContext(
                config, vectors, self.files, captions, self.caption, cache, resident
            )
            stack.callback(self._context.close)
            if self._context.encoder.identity != manifest.encoder:
                raise UserError(_mismatch(name, manifest, config.models))
            self._open = stack.pop_all()

    def _dialogue_prompts(self) -> Prompts:
        """The index' own set where it has a dialogue benchmark's, else the packaged one."""
        own = config_path(self.config.prompts, "prompts")
        names = [spec.name for spec in specs() if spec.dialogue]
        name = next((name for name in names if (own / name).is_dir()), None)
        return load_prompts(str(own), name) if name else load_prompts("dialogue", names[0])

    @classmethod
    def open(
        cls,
        name: str,
        models: str | None = None,
        engine: EngineName | None = None,
        resident: bool = True,
    ) -> ImageScope:
        """Opens an index by its name.

        models: another set than the index was made with; its encoder must be the same.
        resident: models stay until `close`, together in one GPU's memory (each engine gets its
            share of it); else each has the GPU to itself while it is asked.
        Raises UserError for an index that is not there, or was made with another encoder.
        """
        manifest = library.read_manifest(name)
        chosen = library.portable(load_models(models), "general")[0] if models else manifest.models
        chosen = _impatient(chosen)
        if resident:
            chosen = share_memory(chosen)
        return cls(name, manifest, library.settings(manifest, chosen, engine), resident)

    def search(
        self,
        text: str,
        reference: str | Path | None = None,
        stages: Sequence[str] = STAGES,
        top: int = 10,
        previous: str | None = None,
    ) -> Answer:
        """The `top` best pictures after the last of `stages`, best first.

        text: a description; with a reference what is to be different from it.
        reference: any picture, in the index or not (a name of the index, or a file's path).
        previous: a description that the text refines (`Answer.carried` of the answer before).
        Raises UserError for an empty text, stages out of order, and an unreadable reference.
        """
        *_, last = self.stages(text, reference, stages, top, previous)
        return last

    def stages(
        self,
        text: str,
        reference: str | Path | None = None,
        stages: Sequence[str] = STAGES,
        top: int = 10,
        previous: str | None = None,
        glance: bool = False,
    ) -> Iterator[Answer]:
        """The same as `search`, an answer after each stage as soon as it is there.

        glance: first of all an answer 's0', which no model but the encoder had a part in: what is
        like the words (and the reference) as they are.
        """
        start = time.monotonic()
        if not text.strip():
            raise UserError("say what to look for: the text is empty")
        if not stages or tuple(stages) != STAGES[: len(stages)]:
            raise UserError("stages build on each other: s1, or s1 s2, or s1 s2 s3")
        if top < 1:
            raise UserError("--top: at least 1")
        path = self._file(reference) if reference else None
        name = str(path) if path else None
        before = [Query("own", previous, verbatim=True)] if previous and not path else []
        query = Query(
            "own",
            text.strip(),
            turn=len(before),
            reference=name,
            exclude=tuple(self._copies(path)) if path else (),
        )
        method = self._method("imagescope", stages=tuple(stages))
        keep = max(top, method.options.top_k)
        context = self._context.about(path, self._talk if before else self._prompts, keep)
        if glance:
            words = replace(
                query, instruction=f"{previous}, {text}" if before else query.instruction
            )
            look = self._method("image+text" if path else "text-only")
            for state in _states(look, [words], path, context):
                yield self._answer(state, "s0", top, start)
        for state in _states(method, [*before, query], path, context):
            yield self._answer(state, state.stage, top, start)

    def _method(self, name: str, **options: Any) -> Method:
        return open_method(self.config.model_copy(update={"method": name, "options": options}))

    def close(self) -> None:
        """Gives the models' memory back."""
        self._open.close()

    def __enter__(self) -> ImageScope:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.names)

    def caption(self, path: Path) -> str:
        """What the captioner says about a picture; the index' own words if it is in there."""
        name = self._indexed(path)
        if name:
            return self.manifest.pictures[name].caption
        from imagescope.gallery.database import LONGEST

        request = Request(self._prompts["caption"], (Picture(str(path)),), max_tokens=LONGEST)
        with self._context.role("captioner") as captioner:
            (response,) = captioner.ask([request], "reference", ["the reference"])
        if response.error:
            raise UserError(f"reference picture: {response.error}")
        return response.text.strip()

    def _indexed(self, path: Path) -> str | None:
        """The name under which the index has this file, unchanged since."""
        try:
            name = path.relative_to(self.manifest.folder).as_posix()
        except ValueError:
            return None
        entry, stat = self.manifest.pictures.get(name), path.stat()
        same = entry and (entry.size, entry.modified) == (stat.st_size, stat.st_mtime_ns)
        return name if same else None

    def _file(self, reference: str | Path) -> Path:
        """The picture that is meant, checked to be one."""
        from imagescope.models.images import UnreadableImage, load_picture

        path = self.files.get(str(reference)) or Path(reference).expanduser().resolve()
        try:
            if not self._indexed(path):
                load_picture(path)
        except (UnreadableImage, OSError) as error:
            raise UserError(f"reference picture: {error}") from None
        return path

    def _copies(self, path: Path) -> set[str]:
        name = self._indexed(path)
        content = self.manifest.pictures[name].sha256 if name else sha256(path)
        return {n for n, entry in self.manifest.pictures.items() if entry.sha256 == content}

    def _answer(self, state: State, stage: str, top: int, start: float) -> Answer:
        first = {name: rank for rank, name in enumerate(state.scores, 1)}
        results = []
        for rank, name in enumerate(state.ranking.names[:top], 1):
            entry = self.manifest.pictures[name]
            accepted, words = state.judgement(name)
            explanation = Explanation(
                entry.caption, first[name], state.checks(name), accepted, words
            )
            small = library.thumbnail(self.name, entry)
            results.append(
                Result(rank, name, self.files[name], small, state.scores[name], explanation)
            )
        seconds = time.monotonic() - start
        text, reference = state.query.instruction, state.reference
        return Answer(text, reference, stage, tuple(results), state.synthesis, seconds)


def _states(
    method: Method, queries: Sequence[Query], path: Path | None, context: IndexContext
) -> Iterator[State]:
    """What a method's stages make of the last query."""
    state: State | None = None
    for outcome in method.run(queries, context):
        ranking, findings = outcome.rankings[-1], outcome.findings[-1]
        if state is None:
            scores = dict(zip(ranking.names, ranking.scores, strict=True))
            state = State("", queries[-1], path, Synthesis("", (), ()), ranking, scores)
        explained: dict[str, Any] = {kind: f for kind, f in findings.items() if f is not None}
        state = replace(state, stage=f"s{outcome.stage[-1]}", ranking=ranking, **explained)
        yield state


def _impatient(models: ModelSet) -> ModelSet:
    """The same models for somebody who waits: an endpoint's silence is not waited for again."""
    update = {}
    for name in ROLES:
        role = models.role(name)
        calm = {"retry_timeouts": False, "retries": min(role.retries, 2)}
        update[name] = role.model_copy(update=calm)
    return models.model_copy(update=update)


def share_memory(models: ModelSet) -> ModelSet:
    """The same models, each engine with its share of one GPU's memory.

    Shares go by the size of the checkpoints where they are folders, else all alike; roles with the
    same checkpoint have one engine and one share, those behind an endpoint none.
    """
    here = [name for name in ROLES if not is_remote(models.role(name))]
    sizes = {models.role(name).model: _size(models.role(name).model) for name in here}
    sized = all(sizes.values())
    total = sum(sizes.values()) if sized else len(sizes)
    update = {}
    for name in here:
        role = models.role(name)
        share = SHARE * (sizes[role.model] if sized else 1) / total
        update[name] = role.model_copy(update={"gpu_memory_utilization": round(share, 3)})
    return models.model_copy(update=update)


def _size(model: str) -> int:
    """Bytes of a local checkpoint's weights and of room to compute in; 0 where it is not known."""
    for folder in (Path(model).expanduser(), PACKAGE.parent / model):
        if weights := sum(path.stat().st_size for path in folder.glob("*.safetensors")):
            return weights + (2 << 30)
    return 0


def _mismatch(name: str, manifest: library.Manifest, models: ModelSet) -> str:
    return (
        f"the index {name!r} was made with another encoder ({manifest.models.encoder.model}) than "
        f"this ({models.encoder.model}), or the checkpoint's files have changed since: vectors of "
        "two encoders cannot be compared. Leave --models out, or make the index again: "
        f"imagescope index {manifest.folder} --name {name} --models SET"
    )
