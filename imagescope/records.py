"""What flows through the pipeline: frozen values, no behaviour to speak of.

    Query ──synthesis──▶ Synthesis ──retrieval──▶ Ranking ──verification──▶ Verification + Ranking
                                                         ──evaluation───▶ Evaluation  + Ranking

A Trace holds all of it for one query; metrics, submissions and the report are functions of traces.
Image names are the benchmark's own (CIRR: without .png; CIRCO and VisDial: the file name;
FashionIQ: the ASIN; CSV benchmarks: their `filename` column).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

UNJUDGED = "(not judged"  # how a judgement's text begins where the evaluator gave no answer
BLANK_IMAGE = "A blank image."  # the reference description where there is no reference image


# a share that is not known is NaN here, and null in a file
Share = Annotated[float, BeforeValidator(lambda share: math.nan if share is None else share)]


def added(default: Any) -> Any:
    """A field that a stored record got after its format was first written. Cache keys and files
    leave it out where it has its default (see `plain`), so a new field changes neither."""
    return field(default=default, metadata={"added": True})


def plain(record: Any) -> dict[str, Any]:
    """A dataclass instance's fields by name, less those `added` later that have their default.

    Shallow: values stay as they are. What cache keys, cache rows and trace lines are made of.
    """
    first, later = _fields(record.__class__)
    values = {name: getattr(record, name) for name in first}
    for name, default in later:
        if (value := getattr(record, name)) != default:
            values[name] = value
    return values


@cache
def _fields(kind: type) -> tuple[list[str], list[tuple[str, Any]]]:
    """A dataclass's first fields by name; those `added` later, with their defaults."""
    parts = fields(kind)
    first = [part.name for part in parts if not part.metadata.get("added")]
    return first, [(part.name, part.default) for part in parts if part.metadata.get("added")]


@dataclass(frozen=True, slots=True)
class Query:
    """One act of retrieval.

    Text-to-image has no reference; composed retrieval has one; a dialogue is several queries with
    one id and rising turns. `verbatim` marks an instruction that is itself the description (a
    dialogue's opening caption): stage 1 ranks by it and no model is asked.
    """

    id: str
    instruction: str
    turn: int = 0
    reference: str | None = None
    targets: tuple[str, ...] | None = None  # None: hidden; the first is the single target
    candidates: tuple[str, ...] | None = None  # None: the whole gallery
    exclude: tuple[str, ...] = ()  # never ranked
    verbatim: bool = False
    aspects: tuple[str, ...] = ()  # CIRCO's semantic aspects

    @property
    def key(self) -> tuple[str, int]:
        return (self.id, self.turn)

    def __str__(self) -> str:
        return f"query {self.id}" + (f", round {self.turn}" if self.turn else "")


@dataclass(frozen=True)
class Item:
    """Anything that is embedded: a text, images, a video, or several of them together. meta: what
    is known about it, which makes no other item of it."""

    text: str = ""
    images: tuple[Path, ...] = ()
    video: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Gallery:
    """The images that are ranked, in the order that breaks ties, and where they lie.

    `files` may name further images (references outside the gallery). A listed file may be absent:
    whoever opens it says so.
    """

    names: tuple[str, ...]
    files: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Edit:
    """An atomic edit. Types: Addition, Removal, Modification, Comparison, Retention."""

    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """A yes/no question about one image, and the answer the target should give."""

    text: str
    expected: bool


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What the reasoner made of a query. `parse` and `questions_parse` are 'ok', 'repaired' or
    'fallback: why'; the texts are the model's, untouched."""

    reference_description: str
    edits: tuple[Edit, ...]
    descriptions: tuple[str, ...]
    questions: tuple[Question, ...] = ()
    text: str = ""
    questions_text: str = ""
    parse: str = "ok"
    questions_parse: str = "ok"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best images first, and where each known target stands in the whole pool.

    names:  best first, cut at the run's `keep`.
    scores: stage 1's score of each name, in [-1, 1]; empty where a later stage reordered.
    ranks:  target -> 0-based exact rank over the whole pool (never cut off); a target that
            is not in the pool is absent.
    pool:   number of images that were ranked.
    """

    names: tuple[str, ...]
    scores: tuple[float, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    pool: int = 0


@dataclass(frozen=True, slots=True)
class Verification:
    """Predicate verification of the top K: rows follow `candidates` (stage 1's order), columns
    the synthesis' questions.

    yes:    P(yes) against P(no), in [0, 1]; NaN where the engine gives no probabilities.
    answers: yes or no; None where there is no answer, as about an image that could not be read,
             or none that was understood (both count as not satisfied).
    scores: number of questions answered as expected, per candidate.
    unread: (row, column, text) of the answers that were given but not understood.
    """

    candidates: tuple[str, ...]
    yes: tuple[tuple[Share, ...], ...]
    answers: tuple[tuple[bool | None, ...], ...]
    scores: tuple[int, ...]
    unread: tuple[tuple[int, int, str], ...] = added(())


@dataclass(frozen=True, slots=True)
class Judgement:
    """The evaluator's words about one (reference, candidate) pair. unread: they were not
    understood, and so not accepted."""

    candidate: str
    accepted: bool
    text: str
    unread: bool = added(False)

    @property
    def judged(self) -> bool:
        """False where the evaluator gave no answer; the text then says why."""
        return not self.text.startswith(UNJUDGED)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Pairwise evaluation, in the order asked; it stops at the first accepted candidate."""

    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a method has to say in words: rows of (label, text) under a title; a label may be ""."""

    title: str
    rows: tuple[tuple[str, str], ...]
    stage: str = ""  # set by the run


@dataclass(frozen=True, slots=True)
class Images:
    """What a method has to show: rows of (image name, note) under a title; a note may be "".

    files: the names are paths below the image database, as of images that a model made.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    stage: str = ""  # set by the run
    files: bool = added(False)


@dataclass(frozen=True, slots=True)
class Table:
    """What a method knows of candidates: a column for each question about them, or for each part of
    a score, under a title.

    rows: (image name, its cells); a cell is a number, yes or no, a word, or None for nothing.
    expected: the answer to each column that speaks for a candidate, None for what is no question;
        empty where no column is one.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | bool | str | None, ...]], ...]
    expected: tuple[bool | None, ...] = ()
    stage: str = ""  # set by the run


Finding = Synthesis | Verification | Evaluation | Texts | Images | Table  # explains a ranking


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything needed to explain one query's ranking. `rankings` has a key per stage that ran,
    in order; a stage that does not apply to a query repeats the ranking before it."""

    query: Query
    synthesis: Synthesis
    rankings: Mapping[str, Ranking]
    verification: Verification | None = None
    evaluation: Evaluation | None = None
    texts: tuple[Texts, ...] = added(())
    images: tuple[Images, ...] = added(())
    tables: tuple[Table, ...] = added(())


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric over queries: percent (BRI: nats), with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __format__(self, number: str) -> str:
        """`f"{estimate:.1f}"`: the value [low, high], each in this format."""
        return f"{self.value:{number}} [{self.low:{number}}, {self.high:{number}}]"


@dataclass(frozen=True, slots=True)
class Picture:
    """One image file, as RGB with its EXIF orientation applied; the processor does the rest.

    content: a hash of what it shows, where it is known: engines that keep what they made of an
        image know it again by this.
    """

    path: str
    content: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """The canvas of stage 3: reference left, candidate right. No reference: a black image.

    content: as a Picture's.
    """

    left: str | None
    right: str
    content: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    prompt: what is said, before the role's template (raw or chat) is put around it.
    images: at most one today, shown before the prompt.
    max_tokens, repetition_penalty, stop: decoding; greedy, unless there is a temperature.
    choices: words whose probabilities are wanted for the FIRST token (e.g. ("yes", "no")); decoding
        stays unconstrained. Case and a leading space do not matter.
    schema: JSON schema the text must follow, where the engine can (None: free text).
    temperature, top_p, seed: of a sampled answer: from the softmax of the logits / temperature, cut
        to the most probable tokens that make up top_p. Another seed, another answer; an engine
        gives the same for the same seed as far as it can.
    """

    prompt: str
    images: tuple[Picture | Pair, ...] = ()
    max_tokens: int = 256
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    schema: str | None = None
    temperature: float = added(0.0)
    top_p: float = added(1.0)
    seed: int = added(0)


@dataclass(frozen=True, slots=True)
class Response:
    """A model's answer.

    text: without special tokens.  finish: 'stop', 'length' or 'error'.
    probabilities: one per choice, normalised over the choices; empty if none were asked.
    error: why there is no text (an unreadable image, a request the engine refuses), else None.
        An errored response is never cached.
    """

    text: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    finish: str = "stop"
    probabilities: tuple[float, ...] = ()
    error: str | None = None
