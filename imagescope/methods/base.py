"""What a method is: queries in, rankings out, stage by stage, by asking models through a context.

A method holds no state, opens no files, and knows no benchmark's name and no model's name. It is
one file in this folder, a line in registry.py, and its prompts in configs/prompts/<name>/.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from imagescope.arrays import Array
from imagescope.config import Reading, Side, explain
from imagescope.engines.role import Role
from imagescope.errors import UserError
from imagescope.methods.prompts import PromptKind, Prompts, load_prompts
from imagescope.records import Finding, Gallery, Images, Item, Query, Ranking, Table, Texts
from imagescope.registry import METHODS, did_you_mean
from imagescope.search.score import Score

# faithful: formula and settings are the paper's or the release's.  from paper, settings ours: the
# formula is.  reconstruction: the paper leaves parts of the formula open.  control: our own.
Label = Literal["faithful", "from paper, settings ours", "reconstruction", "control"]


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a method; this declaration is the only place that names it. A run's manifest
    holds it for all who read the run.

    id: its key in metrics.json and traces.  title: for tables and pages.  action: the last word of
    its submission file's name.  steps: the labels of what it does, in order.  findings: the kinds
    that explain its ranking (fields of records.Trace); those of LISTS need not be named.
    """

    id: str
    title: str
    action: str
    steps: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a stage came to, query by query, in the order of the queries.

    findings: kind -> what explains the ranking, None where there is nothing to say of a query.
    Texts, Images and Table may have any key.
    score: what the gallery was ranked by, so that another method can stand on it (None: by the
    ranking before).
    """

    stage: str
    rankings: list[Ranking]
    findings: Sequence[Mapping[str, Finding | None]]
    score: Score | None = None


def _words(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_words)]  # in one text, too: "s1 s2"


class Options(BaseModel):
    """A method's own options: each field has a default and a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Context(Protocol):
    """What a method may ask for. There are three: a run's, a plan's (which only counts) and a
    replay's (a run's on a read-only store).

    prompts: of the method, by kind.  resident: models stay in memory, so that asking one twice
    costs no loading.  keep: how many names a ranking holds.
    """

    gallery: Gallery
    prompts: Prompts
    resident: bool
    reading: Reading
    keep: int

    def role(self, name: str) -> AbstractContextManager[Role]:
        """A model to ask. One is in memory at a time, unless they are resident."""

    def captions(self, names: Collection[str] | None = None) -> Mapping[str, str]:
        """name -> caption of these images (None: of all), less those that have none."""

    def samples(
        self, names: Collection[str], n: int, temperature: float = 1.0, top_p: float = 0.9
    ) -> Mapping[str, tuple[str, ...]]:
        """name -> n sampled captions of these images, less those that came to nothing."""

    def view(self, kind: Literal["image", "caption"]) -> Array:
        """A column of the gallery's unit vectors, float32 (n, d); an image without a caption has
        its image vector in the caption's place."""

    def embed(self, items: Sequence[Item], side: Side) -> Array:
        """float32 (len(items), d): unit vectors, embedded as queries are or as the gallery is; a
        row of zeros for an image that cannot be read, and for an item with nothing in it."""

    def means(self, groups: Sequence[Sequence[str]]) -> Array:
        """float32 (len(groups), d): the mean of the unit vectors of each group's texts."""

    def search(
        self, queries: Sequence[Query], score: Score, keep: int | None = None
    ) -> list[Ranking]:
        """The best `keep` (None: as many as a ranking holds) images of each query, and its targets'
        exact ranks."""


LISTS: Mapping[type, str] = {Texts: "texts", Images: "images", Table: "tables"}  # in a Trace


def add_findings(trace: dict[str, Any], stage: str, findings: Mapping[str, Finding | None]) -> None:
    """Adds a stage's findings about a query to the fields of its Trace."""
    for kind, finding in findings.items():
        if isinstance(finding, (Texts, Images, Table)):
            several = LISTS[type(finding)]
            trace[several] = (*trace.get(several, ()), replace(finding, stage=stage))
        elif finding is not None:
            trace[kind] = finding


class Method(Protocol):
    """See the module. Class attributes describe it; an instance has its options, and may narrow
    what depends on them. A method derives from this class for the defaults.

    prompts_of: the method whose prompts it uses; "": its own.
    stages: those that run, in order.  roles: in the order that loads each model once.  prompts:
    kind -> what its file must hold.  typical: step -> an answer as models give it, which `plan`
    goes on with.  needs_reference: its queries must have one.  dialogues: a round refines the
    description of the one before.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str] = ""
    label: ClassVar[Label] = "control"
    prompts_of: ClassVar[str] = ""
    Options: ClassVar[type[Options]] = Options
    stages: tuple[Stage, ...]
    roles: tuple[str, ...] = ()
    prompts: Mapping[str, PromptKind] = {}
    typical: Mapping[str, str] = {}
    needs_reference: bool = False
    dialogues: bool = False
    options: Any

    def __init__(self, options: Any) -> None:
        self.options = options

    def load_prompts(self, name: str | Path, dataset: str) -> Prompts:
        """See methods/prompts.py."""
        return load_prompts(name, dataset, self.prompts, self.prompts_of or self.name)

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        """An outcome a stage, in order, each for all queries."""


def open_method(name: str, options: Mapping[str, Any] = {}) -> Method:
    """A method with its options. Raises UserError for an unknown method or option, and for a value
    that an option does not take."""
    kind: type[Method] = METHODS.load(name)
    fields = kind.Options.model_fields
    for option in options:
        if option not in fields:
            hint = did_you_mean(option, fields)
            raise UserError(f"method {name} has no option {option}: {hint}")
    try:
        return kind(kind.Options.model_validate(dict(options)))
    except ValidationError as error:
        raise explain(error, f"method {name}") from None


@dataclass(frozen=True)
class Description:
    """What a run's manifest says of its method."""

    name: str
    label: str
    options: dict[str, Any]
    stages: tuple[Stage, ...]


def describe(method: Method) -> Description:
    options = method.options.model_dump(mode="json")
    return Description(method.name, method.label, options, method.stages)


def stage_numbers(stages: Sequence[Stage]) -> dict[str, int]:
    """Step -> the number of its stage, from 1. The image database's steps are of no stage."""
    numbers: dict[str, int] = {}
    for number, stage in enumerate(stages, 1):
        numbers |= {step: number for step in stage.steps if step not in numbers}
    return numbers


def check_queries(method: Method, queries: Sequence[Query], benchmark: str) -> None:
    """Raises UserError where the method cannot answer these queries."""
    if method.needs_reference and not any(query.reference for query in queries):
        raise UserError(
            f"{method.name} starts from a reference picture, and {benchmark}'s queries have none"
        )
