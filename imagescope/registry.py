"""Names of methods, engines, encoders, benchmarks and commands: what each stands for is imported
when used.

Another package adds its own by entry points, in the groups imagescope.methods, imagescope.engines,
imagescope.encoders, imagescope.benchmarks and imagescope.commands (typer applications):

    [project.entry-points."imagescope.methods"]
    mine = "my_package.mine:Mine"
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from imagescope.errors import UserError


class Registry(Mapping[str, Any]):
    """name -> "module:object" of one kind, those of other packages included.

    kind: in the singular, for messages.  A name of ours cannot be taken by another package.
    """

    def __init__(self, kind: str, ours: Mapping[str, Any]):
        self.kind, self._ours = kind, dict(ours)

    @cached_property
    def _others(self) -> dict[str, str]:
        points = entry_points(group=f"imagescope.{self.kind}s")
        return {point.name: point.value for point in points if point.name not in self._ours}

    @property
    def _all(self) -> dict[str, Any]:
        return self._ours | self._others

    def add(self, name: str, value: Any) -> None:
        """Adds, for this process alone, a "module:object" or an object itself. Raises UserError for
        a name that is taken."""
        if name in self._all:
            raise UserError(f"{self.kind} {name} is there already")
        self._ours[name] = value

    def remove(self, name: str) -> None:
        """Takes away what `add` added."""
        del self._ours[name]

    def __getitem__(self, name: str) -> Any:
        # to look for other packages takes a while
        return self._ours[name] if name in self._ours else self._others[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def load(self, name: str) -> Any:
        """What the name stands for. Raises UserError for an unknown name, with the nearest known
        one, and for a package whose object cannot be imported."""
        if name not in self:
            raise UserError(f"no {self.kind} is named {name}: {did_you_mean(name, self)}")
        value = self[name]
        if not isinstance(value, str):
            return value
        module, _, attribute = value.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise UserError(f"{self.kind} {name} ({value}): {error}") from error


def did_you_mean(name: str, names: Collection[str]) -> str:
    """For the message about a name that is none of these: the nearest one, and all of them."""
    near = get_close_matches(name.lower(), names, 1)
    there = f"there are {', '.join(names)}" if names else "there are none"
    return f"did you mean {near[0]}? ({there})" if near else there


METHODS = Registry(
    "method",
    {
        "imagescope": "imagescope.methods.imagescope:ImageScope",
        "cirevl": "imagescope.methods.cirevl:CIReVL",
        "ldre": "imagescope.methods.ldre:LDRE",
        "seize": "imagescope.methods.seize:SEIZE",
        "text-only": "imagescope.methods.baselines:TextOnly",
        "image-only": "imagescope.methods.baselines:ImageOnly",
        "image+text": "imagescope.methods.baselines:ImageText",
    },
)

# a library that opens encoders -> a class of encoders/base.py's kind
ENCODERS = Registry(
    "encoder",
    {
        "transformers": "imagescope.encoders.transformers:TransformersEncoder",
        "open_clip": "imagescope.encoders.open_clip:OpenClipEncoder",
        "sentence_transformers": (
            "imagescope.encoders.sentence_transformers:SentenceTransformersEncoder"
        ),
    },
)

BENCHMARKS = Registry(
    "benchmark",
    {
        "CIRCO": "imagescope.benchmarks.circo:SPEC",
        "CIRR": "imagescope.benchmarks.cirr:SPEC",
        "FashionIQ-dress": "imagescope.benchmarks.fashioniq:DRESS",
        "FashionIQ-shirt": "imagescope.benchmarks.fashioniq:SHIRT",
        "FashionIQ-toptee": "imagescope.benchmarks.fashioniq:TOPTEE",
        "Flickr30K": "imagescope.benchmarks.captions:FLICKR30K",
        "MSCOCO": "imagescope.benchmarks.captions:MSCOCO",
        "VisDial": "imagescope.benchmarks.visdial:SPEC",
    },
)

ENGINES = Registry(
    "engine",
    {
        "transformers": "imagescope.engines.transformers:Transformers",
        "vllm": "imagescope.engines.vllm:VLLM",
        "openai": "imagescope.engines.openai:OpenAI",
    },
)

COMMANDS = Registry("command", {})  # beside those of cli/
