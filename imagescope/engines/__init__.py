"""Engines: one contract (base.py), several ways to run a model. `open_engine` chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from imagescope.config import EngineName, ModelConfig
from imagescope.engines.base import Answers, Engine, Requests
from imagescope.errors import UserError
from imagescope.models.device import optional, visible_gpus, vllm_works
from imagescope.registry import ENGINES

__all__ = ["Lazy", "choose", "is_remote", "open_engine"]
# what of a role's configuration determines answers, besides each request's own decoding
DECLARED = ("model", "revision", "dtype", "quantization", "template", "max_model_len")


class Lazy:
    """An engine that is chosen, and its checkpoint looked at, only when something needs it.

    declared: what the configuration says of it, known without any checkpoint: a bundle of
        responses is replayed by this where the checkpoint itself is absent.
    """

    def __init__(self, declared: dict[str, Any], make: Callable[[], Engine]):
        self.declared = declared
        self._make = make

    @cached_property
    def _engine(self) -> Engine:
        return self._make()

    @property
    def identity(self) -> dict[str, Any]:
        return self._engine.identity

    @property
    def width(self) -> int:
        return self._engine.width

    @property
    def loads(self) -> int:
        return self._opened.loads if self._opened else 0

    @property
    def load_seconds(self) -> float:
        return self._opened.load_seconds if self._opened else 0.0

    @property
    def _opened(self) -> Engine | None:
        return self.__dict__.get("_engine")

    def generate(self, requests: Requests) -> Iterator[Answers]:
        yield from self._engine.generate(requests)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()


def choose(config: ModelConfig, engine: EngineName = "auto") -> str:
    """The engine a role runs in: its own wish, else the run's; auto: an endpoint where one is
    given, else vLLM where it is installed and works, else transformers. Raises UserError where
    the wished one is unknown or not installed."""
    wish = config.engine or engine
    if wish == "auto":
        return "openai" if config.base_url else "vllm" if vllm_works() else "transformers"
    package = ENGINES.load(wish).package
    if package and find_spec(package) is None:
        raise UserError(f"engine {wish}: not installed here (pip install 'imagescope[{wish}]')")
    if config.deterministic and wish != "vllm":
        raise UserError(f"{config.model}: `deterministic: true` is vLLM's, not engine {wish}'s")
    return wish


def is_remote(config: ModelConfig, engine: str = "auto") -> bool:
    """Whether a role's model runs elsewhere: there is no checkpoint of it here."""
    wish = config.engine or engine
    return bool(config.base_url if wish == "auto" else ENGINES.load(wish).remote)


def open_engine(
    config: ModelConfig, engine: EngineName = "auto", *, ray_address: str | None = None
) -> Lazy:
    """The engine for a role's configuration; nothing is loaded or looked up yet.

    ray_address: of a running Ray cluster to join ("auto": the one this machine is part of). With
    several GPUs, or a cluster, the model runs once on each (or on tensor_parallel_size of them).
    """

    def make() -> Engine:
        kind = choose(config, engine)
        chosen = ENGINES.load(kind)
        if not chosen.remote:
            if ray_address or len(visible_gpus()) >= 2 * config.tensor_parallel_size:
                from imagescope.engines.distributed import Distributed

                return Distributed(kind, config, address=ray_address)
            if chosen.own_process or visible_gpus():
                from imagescope.engines.child import Child

                return Child(kind, config)
        opened: Engine = chosen(config)
        return opened

    declared = config.model_dump(include=set(DECLARED)) | {"engine": config.engine or engine}
    declared |= optional(config)
    if config.served_as:
        declared["served_as"] = config.served_as
    return Lazy(declared, make)
