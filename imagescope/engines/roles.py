"""The roles of a run: which engines they share, and which of them is in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from imagescope.config import ModelConfig, RunConfig
from imagescope.engines import open_engine
from imagescope.engines.cached import Cached
from imagescope.engines.role import Role, Step
from imagescope.store.cache import Cache

OF_REQUESTS = (  # of a role, what goes with each request, not with the engine
    *("max_tokens", "answer_tokens", "json_schema", "repetition_penalty", "stop", "chunk_size"),
)


class Models:
    """The roles of a run. Roles that name the same checkpoint share an engine; it is closed when
    the last role that needs it is done, or another is opened: one model in memory at a time.

    strict: nothing may be asked, as in a replay.  steps: of all roles, filled as they are asked.
    before: what each engine is wrapped in (preflight).  opener: makes a role's engine.
    """

    def __init__(
        self,
        config: RunConfig,
        cache: Cache,
        strict: bool = False,
        steps: dict[str, Step] | None = None,
        before: Callable[[Any], Any] | None = None,
        opener: Callable[..., Any] | None = None,
    ):
        self._config, self._cache, self._before = config, cache, before
        self._opener = opener or open_engine
        self._strict = strict or config.replay is not None
        self._engines: dict[str, Cached] = {}
        self.roles: dict[str, Role] = {}
        self._steps = {} if steps is None else steps

    def _shared(self, name: str) -> str:
        return checkpoint(self._config.models.role(name)).model_dump_json()

    def open(self, name: str) -> Role:
        """The role, with its engine; nothing is loaded before something is asked."""
        config, key = self._config.models.role(name), self._shared(name)
        if key not in self._engines:
            engine = self._opener(
                checkpoint(config), self._config.engine, ray_address=self._config.ray_address
            )
            self._engines[key] = Cached(
                self._before(engine) if self._before else engine,
                self._cache,
                chunk_size=config.chunk_size,
                replay=self._strict,
            )
        role = self.roles.get(name) or Role(name, self._engines[key], config, self._steps)
        self.roles[name] = role
        return role

    @contextmanager
    def role(self, name: str) -> Iterator[Role]:
        """The role for one part of the run; afterwards its memory is free unless shared."""
        self.close(all_but=name)  # one that a later role shares may still be open
        try:
            yield self.open(name)
        finally:
            roles = self._config.models.roles
            later = roles[roles.index(name) + 1 :]
            if not any(self._shared(other) == self._shared(name) for other in later):
                self._engines[self._shared(name)].close()

    def close(self, all_but: str | None = None) -> None:
        """Gives the memory of all engines back, or of all that this role does not need."""
        kept = self._shared(all_but) if all_but else None
        for key, engine in self._engines.items():
            if key != kept:
                engine.close()

    def loads(self) -> dict[str, int]:
        """How often each role's engine was loaded."""
        return {name: role.engine.stats.loads for name, role in self.roles.items()}


def checkpoint(config: ModelConfig) -> ModelConfig:
    """What of a role's configuration belongs to the engine; decoding goes with each request."""
    plain = {name: ModelConfig.model_fields[name].default for name in OF_REQUESTS}
    return config.model_copy(update=plain)
