"""What a run needs, looked at before it begins: checkpoints, endpoints, images and disk space.

`doctor` makes some of the same checks, without a network. A run makes them all before it asks
anything, and lists at once whatever lacks; a run that finds every answer in its cache needs none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from imagescope.benchmarks.base import Benchmark
from imagescope.config import EncoderConfig, ModelConfig, RunConfig
from imagescope.encoders.base import has_checkpoint
from imagescope.engines import choose
from imagescope.engines.base import Engine, Request, collect
from imagescope.errors import UserError
from imagescope.methods.base import open_method
from imagescope.models.checkpoints import available, locate, on_disk, problems, read_config
from imagescope.redaction import redact
from imagescope.registry import ENGINES
from imagescope.store.cache import cache_path

T = TypeVar("T")
Group = Literal["machine", "packages", "datasets", "checkpoints", "endpoints", "disk"]
State = Literal["ok", "optional", "missing"]
GATED = ("meta-llama/", "google/paligemma")  # owners ask for a licence to be accepted
WORK = ("generate", "embed")  # what asks a model
QUESTIONS = 3  # a query
ROW, NAMED = 2_000, 60  # bytes of a stored response, and of a name and its score in a trace
DIMENSION = 1024  # of vectors, where the encoder's configuration does not say


@dataclass(frozen=True)
class Check:
    """One finding. missing: something needed is not there; remedy: what brings it; size: bytes that
    are still to be downloaded."""

    group: Group
    name: str
    state: State
    text: str
    remedy: str = ""
    size: int = 0


class Preflight:
    """Looks at everything once, when it is called first; see the module."""

    def __init__(self, config: RunConfig, benchmark: Benchmark):
        self._config, self._benchmark, self._done = config, benchmark, not config.preflight

    def __call__(self) -> None:
        """Raises UserError with everything that lacks."""
        if self._done:
            return
        self._done = True
        checks = examine(self._config, self._benchmark)
        lacking = [check for check in checks if check.state == "missing"]
        if len(lacking) == 1:
            (check,) = lacking
            raise UserError(f"{check.text} ({check.remedy})" if check.remedy else check.text)
        if lacking:
            lines = [f"  {c.name}: {c.text}\n      {c.remedy}".rstrip() for c in lacking]
            raise UserError(
                "not everything is here that this run needs (--no-preflight: begin all the same):\n"
                + "\n".join(lines)
            )

    def before(self, model: T) -> T:
        """The same engine or encoder, before whose first work, or where it cannot be identified,
        everything is looked at."""
        return cast(T, _Checked(model, self))


class _Checked:
    def __init__(self, model: Any, preflight: Callable[[], None]):
        self._model, self._preflight = model, preflight

    def __getattr__(self, name: str) -> Any:
        try:
            value = getattr(self._model, name)
        except UserError:
            self._preflight()
            raise
        if name not in WORK:
            return value

        def work(items: Sequence[Any], *more: Any) -> Any:
            if items:
                self._preflight()
            return value(items, *more)

        return work


def examine(config: RunConfig, benchmark: Benchmark) -> list[Check]:
    """Every check of a run, with a network where a checkpoint is not here."""
    checks = list(_models(config))
    checks += _images(config, benchmark)
    checks += _disk(config, benchmark, sum(check.size for check in checks))
    return checks


def _models(config: RunConfig) -> Iterator[Check]:
    local: list[tuple[str, ModelConfig | EncoderConfig]] = [("encoder", config.models.encoder)]
    remote: dict[tuple[str, ...], tuple[list[str], str, ModelConfig]] = {}
    for role in open_method(config.method, config.options).roles:
        model = config.models.role(role)
        try:
            kind = choose(model, config.engine)
        except UserError as error:
            yield Check("packages", role, "missing", str(error))
            continue
        if ENGINES.load(kind).remote:
            key = (kind, model.model, model.base_url or "", model.api_key_env)
            remote.setdefault(key, ([], kind, model))[0].append(role)
        else:
            local.append((role, model))
    yield from checkpoints(local, online=True)
    for names, kind, model in remote.values():
        yield _endpoint(", ".join(names), kind, model)


def checkpoints(
    models: Iterable[tuple[str, ModelConfig | EncoderConfig]], online: bool = False
) -> Iterator[Check]:
    """A check for each checkpoint of (role, configuration) pairs. online: whether the hub is asked
    for what is not here."""
    uses: dict[tuple[str, str | None], list[str]] = {}
    for role, model in models:
        if isinstance(model, ModelConfig) or has_checkpoint(model):
            uses.setdefault((model.model, model.revision), []).append(role)
    for (name, revision), roles in uses.items():
        yield _checkpoint(name, revision, ", ".join(roles), online)


def _checkpoint(model: str, revision: str | None, roles: str, online: bool) -> Check:
    def check(state: State, text: str, remedy: str = "", size: int = 0) -> Check:
        return Check("checkpoints", roles, state, f"{model}: {text}", remedy, size)

    try:
        source = locate(model)
    except UserError as error:
        return check("missing", str(error))
    if Path(source).is_dir():
        return check("ok", "in place")
    folder = on_disk(source, revision)
    lacks = problems(folder) if folder else ["nothing downloaded"]
    if not lacks:
        return check("ok", "in the hub's cache")
    lacking = "; ".join(lacks)
    command = f"hf download {model}" + (f" --revision {revision}" if revision else "")
    if online:
        try:
            size = available(source, revision)
        except UserError as error:
            return check("missing", f"{lacking}. {error}", command)
        return check("ok", f"{lacking}; {_bytes(size)} to download", command, size)
    if not model.startswith(GATED):
        return check("missing", lacking, command)
    from huggingface_hub import get_token

    page = f"https://huggingface.co/{model}"
    login = "a hub login is there" if get_token() else "gated, and no hub login (hf auth login)"
    return check("missing", f"{lacking}; {login}", f"accept {page}, then {command}")


def identifiable(model: str, revision: str | None) -> bool:
    """Whether a checkpoint's content can be told by what is on this disk, without a network."""
    try:
        return on_disk(locate(model), revision) is not None
    except UserError:
        return False


def _endpoint(roles: str, kind: str, model: ModelConfig) -> Check:
    """Asks an endpoint for one token. A refusal is an answer, too: other requests may pass."""
    where = f"{redact(model.base_url or 'the endpoint')} (model {model.model})"
    try:
        engine: Engine = ENGINES.load(kind)(
            model.model_copy(update={"retries": 1, "retry_timeouts": False})
        )
        try:
            collect(engine, [Request("Say yes.", max_tokens=1)])
        finally:
            engine.close()
    except UserError as error:
        return Check("endpoints", roles, "missing", str(error))
    return Check("endpoints", roles, "ok", f"{where} answers")


def _images(config: RunConfig, benchmark: Benchmark) -> Iterator[Check]:
    names, absent = benchmark.gallery.names, benchmark.absent
    text = f"{len(absent):,} of {len(names):,} images of the gallery missing"
    if names and len(absent) == len(names):
        first = benchmark.gallery.files.get(absent[0], absent[0])
        where = f"imagescope doctor --data-root {config.data_root} says where they come from"
        yield Check("datasets", config.dataset, "missing", f"{text}; the first: {first}", where)
    else:
        yield Check("datasets", config.dataset, "ok", text)


def _disk(config: RunConfig, benchmark: Benchmark, downloads: int) -> Iterator[Check]:
    """Whether each disk has room for what will be written to it, less what is there already."""
    images, queries = len(benchmark.gallery.names), len(benchmark.queries)
    cache = cache_path(config)
    options = open_method(config.method, config.options).options
    top_k, alpha = getattr(options, "top_k", 0), getattr(options, "alpha", 0)
    answers = images + queries * (2 + QUESTIONS * top_k + alpha)
    vectors = sum(f.stat().st_size for f in (config.image_db / config.dataset).rglob("*.npy"))
    needs = {
        config.image_db: 8 * images * _dimension(config.models.encoder) - vectors,
        cache: ROW * answers - (cache.stat().st_size if cache.is_file() else 0),
        config.runs: queries * (ROW + NAMED * max(config.keep, top_k)),
    }
    if downloads:
        from huggingface_hub.constants import HF_HUB_CACHE

        needs[Path(HF_HUB_CACHE)] = downloads
    disks: dict[int, list[Path]] = {}
    for path, need in needs.items():
        if need > 0:
            disks.setdefault(os.stat(_existing(path)).st_dev, []).append(path)
    for places in disks.values():
        free = shutil.disk_usage(_existing(places[0])).free
        need = sum(needs[path] for path in places)
        parts = ", ".join(f"{path} {_bytes(needs[path])}" for path in places)
        text = f"about {_bytes(need)} to be written ({parts}), {_bytes(free)} free"
        if need > free:
            remedy = "make room, or take other places: --image-db, --cache, --runs, HF_HOME"
            yield Check("disk", "disk", "missing", text, remedy)
        else:
            yield Check("disk", "disk", "ok", text)


def _existing(path: Path) -> Path:
    path = path.absolute()
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))


def _dimension(encoder: EncoderConfig) -> int:
    """Of the encoder's vectors, as far as its configuration is here and says it."""
    try:
        if Path(folder := locate(encoder.model)).is_dir():
            size = read_config(folder).get("projection_dim")
            return size if isinstance(size, int) else DIMENSION
    except UserError:
        pass
    return DIMENSION


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
