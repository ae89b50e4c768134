"""How a benchmark's annotation files are read and doubted.

A benchmark's file reads annotations through a Source, which gathers every Fault instead of stopping
at the first: `load` refuses a benchmark with faults, `imagescope data check` lists them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from imagescope.benchmarks.json_records import record, repetitions, whole_records
from imagescope.errors import UserError
from imagescope.files import open_regular

COUNTS = "counts.json"
DOCS = "docs/benchmarks.md says where to get it and how to lay it out"
Listing = Callable[[Path], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in an annotation file. index: 0-based record (CSV: row), None: the file."""

    file: Path
    index: int | None
    reason: str

    def __str__(self) -> str:
        place = "" if self.index is None else f", index {self.index}"
        return f"{self.file}{place}: {self.reason}"


class Row(BaseModel):
    """An annotation record: types are not coerced, further fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


RowT = TypeVar("RowT", bound=Row)


def files_in(folder: Path) -> frozenset[str]:
    """Names of a folder's files; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


@dataclass
class Source:
    """Where a benchmark is read from, and what was found wrong on the way.

    listing: a folder of images -> its files' names. On disk; in a replay, as the run saw them.
    """

    root: Path
    folder: Path
    split: str
    options: Mapping[str, Any]
    listing: Listing = files_in
    faults: list[Fault] = field(default_factory=list)
    image_places: list[Path] = field(default_factory=list)
    _tried: dict[Path, list[Path]] = field(default_factory=dict)

    def fault(self, file: Path, index: int | None, reason: str) -> None:
        self.faults.append(Fault(file, index, reason))

    def find(self, *places: str) -> Path:
        """The first of several places of an annotation file that exists, else the first."""
        tries = [self.folder / place for place in places]
        path = next((path for path in tries if path.is_file()), tries[0])
        self._tried[path] = tries
        return path

    def json(self, path: Path, kind: type) -> Any:
        """A JSON file's list or mapping; a fault, and nothing in it, where it is none."""
        text = self.text(path)
        try:
            data = json.loads(text, object_pairs_hook=record)
            repeated = list(repetitions(data))
        except ValueError as error:
            index = whole_records(text) if kind is list else None
            self.fault(path, index, f"not valid JSON (cut off?): {error}")
            return kind()
        except RecursionError:
            self.fault(path, None, "not an annotation file: nested too deeply")
            return kind()
        if not isinstance(data, kind):
            expected = "a list" if kind is list else "a mapping"
            self.fault(path, None, f"{expected} expected, got {type(data).__name__}")
            return kind()
        for index, key in repeated:
            self.fault(path, index, f"{key!r:.80} is there twice")
        return data

    def text(self, path: Path) -> str:
        """A file's text. Raises UserError where it cannot be read."""
        try:
            with open_regular(path) as file:
                return file.read().decode("utf-8-sig")
        except FileNotFoundError:
            others = [str(place) for place in self._tried.get(path, ()) if place != path]
            looked = f" (looked for {', '.join(others)}, too)" if others else ""
            raise UserError(f"{path}: no such file; {DOCS}{looked}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error}); download it again") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None

    def rows(self, path: Path, model: type[RowT]) -> list[tuple[int, RowT]]:
        """The well-formed records of a JSON list, with their indices; faults for the others."""
        rows = []
        for index, value in enumerate(self.json(path, list)):
            try:
                rows.append((index, model.model_validate(value)))
            except ValidationError as error:
                for e in error.errors():
                    place = ".".join(map(str, e["loc"])) or "record"
                    self.fault(path, index, f"{place}: {e['msg'].lower()}")
        return rows

    def sound_rows(
        self, path: Path, model: type[RowT], key: str, doubts: Callable[[RowT], list[str]]
    ) -> list[RowT]:
        """The records in which nothing is wrong, faults for the others. doubts: what is wrong in
        one.  key: the field that no two may share."""
        rows: dict[Any, RowT] = {}
        for index, row in self.rows(path, model):
            reasons, value = doubts(row), getattr(row, key)
            if value in rows:
                reasons.append(f"{key} {value} occurs twice")
            for reason in reasons:
                self.fault(path, index, reason)
            if not reasons:
                rows[value] = row
        return list(rows.values())

    def names(self, path: Path) -> list[str]:
        """A JSON list of distinct strings."""
        names: dict[str, None] = {}
        for index, name in enumerate(self.json(path, list)):
            if not isinstance(name, str):
                self.fault(path, index, f"a string expected, got {name!r:.80}")
            elif name in names:
                self.fault(path, index, f"{name} is listed twice")
            else:
                names[name] = None
        return list(names)

    def image_folder(self, *places: str, beside: Sequence[str] = ()) -> Path:
        """The first of several folders of images that exists, else the first: below the
        benchmark's folder, then below others of the data root ("" is the root itself)."""
        bases = [self.folder, *(self.root / other for other in beside)]
        tries = [base / place for base in bases for place in places]
        self.image_places += tries
        return next((path for path in tries if path.is_dir()), tries[0])


def declared_counts(folder: Path, name: str, split: str) -> tuple[int, int] | None:
    """(queries, gallery) that a copy of a benchmark declares in its own counts.json, where it has
    one: {name: {split: [queries, gallery]}}. Raises UserError for a file of another kind."""
    path = folder / COUNTS
    try:
        with open_regular(path) as file:
            counts = json.loads(file.read())[name][split]
    except (FileNotFoundError, LookupError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: declares no counts: {error}") from None
    match counts:
        case [int(queries), int(gallery)]:
            return queries, gallery
    raise UserError(f"{path}: [queries, gallery] of {name} {split} expected, got {counts!r:.80}")


def is_safe(path: str) -> bool:
    """Whether a name from an annotation file stays inside the folder it is looked up in."""
    parts = PurePosixPath(path).parts
    plain = bool(parts) and not path.startswith("/") and not set(path) & set("\\\0")
    return plain and not any(part == ".." or part.startswith("._") for part in parts)
