"""Searching an index: the stages one by one, with the models kept in memory between queries."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from imagescope.benchmarks import specs
from imagescope.config import EngineName, ModelSet, RunConfig, config_path, load_models
from imagescope.engines.base import Picture, Request
from imagescope.errors import UserError
from imagescope.gallery.vectors import GalleryVectors
from imagescope.methods.base import Method, add_findings, open_method
from imagescope.methods.prompts import CAPTION, Prompts, load_prompts
from imagescope.own import library
from imagescope.own.answers import Answer, Explanation, Result
from imagescope.own.context import IndexContext
from imagescope.own.folder import sha256
from imagescope.own.models import impatient, portable, share_memory
from imagescope.records import Query, Ranking, Synthesis, Trace
from imagescope.report.findings import Line, lines, notes, stored_file
from imagescope.search.approximate import Approximate

STANDARD = "imagescope"  # the method that is meant where none is named


class ImageScope:
    """An index of your own pictures, opened for searching.

        with ImageScope.open("holidays") as scope:
            for result in scope.search("a dog on a beach"):
                print(result.rank, result.path, result.explanation.passed)

    Models are loaded at the first question that needs them. Not for several threads at once: the
    cache of answers has one connection.
    """

    def __init__(
        self,
        name: str,
        manifest: library.Manifest,
        config: RunConfig,
        resident: bool = True,
        approximate: bool = False,
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
        file = library.place(name) / manifest.vectors
        index = Approximate(vectors, file) if approximate else None
        self.method = open_method(config.method, config.options)
        self._prompts = self.method.load_prompts(config.prompts, "folder")
        self._talk = self._dialogue_prompts() if self.method.dialogues else self._prompts
        captions = {n: entry.caption for n, entry in manifest.pictures.items()}
        with ExitStack() as stack:
            path = library.writable_cache(cache_path(config))
            cache = stack.enter_context(Cache.open(path, record=False))
            self._context = IndexContext(
                config, vectors, self.files, captions, self.caption, cache, resident, index
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
        place = (str(own), name) if name else ("dialogue", names[0])
        return self.method.load_prompts(*place)

    @classmethod
    def open(
        cls,
        name: str,
        models: str | None = None,
        engine: EngineName | None = None,
        resident: bool = True,
        method: str = STANDARD,
        options: Mapping[str, Any] | None = None,
        approximate: bool = False,
    ) -> ImageScope:
        """Opens an index by its name.

        models: another set than the index was made with; its encoder must be the same.
        resident: models stay until `close`, together in one GPU's memory (each engine gets its
            share of it); else each has the GPU to itself while it is asked.
        method, options: what is searched with, any of `imagescope methods`.
        approximate: for a million pictures and more: stage 1 takes a shortlist from faiss (see
            search/approximate.py), which is made now if there is none.
        Raises UserError for an index that is not there, or was made with another encoder, and for
        an unknown method or option.
        """
        manifest = library.read_manifest(name)
        chosen = portable(load_models(models), "general")[0] if models else manifest.models
        chosen = impatient(chosen)
        if resident:
            chosen = share_memory(chosen)
        config = library.settings(manifest, chosen, engine)
        config = config.model_copy(update={"method": method, "options": dict(options or {})})
        return cls(name, manifest, config, resident, approximate)

    def search(
        self,
        text: str,
        reference: str | Path | None = None,
        stages: str | Sequence[str] | None = None,
        top: int = 10,
        previous: str | None = None,
    ) -> Answer:
        """The `top` best pictures after the last stage, best first.

        text: a description; with a reference what is to be different from it.
        reference: any picture, in the index or not (a name of the index, or a file's path).
        stages: the method's option of this name, for this search: s1, s1 s2, or s1 s2 s3; s0 asks
            the encoder alone, which finds what is like the words (and the reference).
        previous: a description that the text refines (`Answer.carried` of the answer before).
        Raises UserError for an empty text, stages out of order, an unreadable reference, and none
        where the method starts from one.
        """
        *_, last = self.stages(text, reference, stages, top, previous)
        return last

    def stages(
        self,
        text: str,
        reference: str | Path | None = None,
        stages: str | Sequence[str] | None = None,
        top: int = 10,
        previous: str | None = None,
        glance: bool = False,
        among: Sequence[str] | None = None,
    ) -> Generator[Answer]:
        """The same as `search`, an answer after each stage as soon as it is there.

        among: the names that are ranked; None: all.
        glance: first of all the answer of 's0'.
        """
        start = time.monotonic()
        if not text.strip():
            raise UserError("say what to look for: the text is empty")
        if top < 1:
            raise UserError("--top: at least 1")
        method, alone = self._choose(stages)
        if method.needs_reference and not reference:
            raise UserError(
                f"{method.name} starts from a reference picture, and there is none: give one "
                "(search: --reference; chat: /like; the page: take a result, or drop a picture)"
            )
        path = self._file(reference) if reference else None
        previous = previous if not path else None
        words = f"{previous}, {text.strip()}" if previous else text.strip()
        plain = Query(
            "own",
            words,
            reference=str(path) if path else None,
            candidates=None if among is None else tuple(among),
            exclude=tuple(self._copies(path)) if path else (),
        )
        queries, prompts = [plain], self._prompts
        if previous and method.dialogues:
            opening = replace(plain, instruction=previous, verbatim=True)
            queries = [opening, replace(plain, instruction=text.strip(), turn=1)]
            prompts = self._talk
        context = self._context.about(path, prompts, max(top, getattr(method.options, "top_k", 0)))
        if alone or (glance and method.roles):
            look = open_method("image+text" if path else "text-only")
            for trace in _traces(look, [plain], context):
                answer = self._answer(trace, method, 0, top, start)
                if alone:
                    answer = replace(answer, method=look.name, title="Encoder alone", upcoming="")
                yield answer
        if alone:
            return
        for number, trace in enumerate(_traces(method, queries, context), 1):
            yield self._answer(trace, method, number, top, start)

    @property
    def lacking(self) -> str:
        """What the index or its models lack for the method; "" where there is all it asks for."""
        if self.method.roles and not self.manifest.captioned:
            return "the index has no captions"
        absent = [role for role in self.method.roles if role not in self.config.models.roles]
        return f"the models have no {', '.join(absent)}" if absent else ""

    def _choose(self, stages: str | Sequence[str] | None) -> tuple[Method, bool]:
        """The method of a search, and whether the encoder alone is asked instead: where s0 is
        wished, or where the standard method, with no stage wished, lacks something."""
        method = self.method
        if stages in ("s0", ["s0"], ("s0",)):
            return method, True
        if self.lacking and (stages or method.name != STANDARD):
            raise UserError(
                f"{self.lacking}, which {method.name} needs: imagescope caption {self.name} "
                "[--models SET] makes them, --stages s0 searches by the encoder alone"
            )
        if stages is not None:
            method = open_method(method.name, {**self.config.options, "stages": stages})
        return method, bool(self.lacking)

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

        prompts = load_prompts(self.config.prompts, "folder", {"caption": CAPTION})
        request = Request(prompts["caption"], (Picture(str(path)),), max_tokens=LONGEST)
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

    def _answer(self, trace: Trace, method: Method, number: int, top: int, start: float) -> Answer:
        """number: of the stage, from 1; 0 is the first look."""
        titles = ["A first look", *(stage.title for stage in method.stages), ""]
        ran = [stage for stage in method.stages if stage.id in trace.rankings]
        *_, last = trace.rankings.values()
        ranks, scores = _first_ranks(trace), _scores(trace)
        results = []
        for rank, name in enumerate(last.names[:top], 1):
            entry = self.manifest.pictures[name]
            said, brief = notes(trace, ran, name)
            why = Explanation(entry.caption, ranks.get(name), tuple(said), tuple(brief))
            small, score = library.thumbnail(self.name, entry), scores.get(name, math.nan)
            results.append(Result(rank, name, self.files[name], small, score, why))
        reference = trace.query.reference
        return Answer(
            text=trace.query.instruction,
            reference=Path(reference) if reference else None,
            method=method.name,
            stage=f"s{number}",
            title=titles[number],
            upcoming=titles[number + 1],
            results=tuple(results),
            synthesis=trace.synthesis,
            lines=tuple((line, self._picture(line)) for line in lines(trace, ran)),
            seconds=time.monotonic() - start,
        )

    def _picture(self, line: Line) -> Path | None:
        """The file of a line's image, or its thumbnail; None where there is none."""
        if line.file:
            return stored_file(line.image, [self.config.image_db])
        entry = self.manifest.pictures.get(line.image)
        return library.thumbnail(self.name, entry) if entry else None


def _traces(method: Method, queries: Sequence[Query], context: IndexContext) -> Iterator[Trace]:
    """What a method makes of the last query, after each of its stages."""
    fields: dict[str, Any] = {"synthesis": Synthesis("", (), ())}
    rankings: dict[str, Ranking] = {}
    for outcome in method.run(queries, context):
        rankings[outcome.stage] = outcome.rankings[-1]
        add_findings(fields, outcome.stage, outcome.findings[-1])
        yield Trace(queries[-1], rankings=dict(rankings), **fields)


def _first_ranks(trace: Trace) -> dict[str, int]:
    """The first stage's ranking: name -> rank, from 1."""
    first = next(iter(trace.rankings.values()))
    return {name: rank for rank, name in enumerate(first.names, 1)}


def _scores(trace: Trace) -> dict[str, float]:
    """name -> the score of the last stage that gave it one."""
    scores: dict[str, float] = {}
    for ranking in trace.rankings.values():
        scores |= zip(ranking.names, ranking.scores, strict=False)  # a new order has no scores
    return scores


def _mismatch(name: str, manifest: library.Manifest, models: ModelSet) -> str:
    return (
        f"the index {name!r} was made with another encoder ({manifest.models.encoder.model}) than "
        f"this ({models.encoder.model}), or the checkpoint's files have changed since: vectors of "
        "two encoders cannot be compared. Leave --models out, or make the index again: "
        f"imagescope index {manifest.folder} --name {name} --models SET"
    )
