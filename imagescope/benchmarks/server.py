"""The file that an evaluation server takes: {query id: its images, best first}.

A benchmark's own server derives from Server, in the benchmark's file, and says what differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagescope.records import Query


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a file, or a warning.

    query: the id it is about, '' for the file.  scorable: what is there can be scored all the same.
    """

    text: str
    query: str = ""
    warning: bool = False
    scorable: bool = False

    def __str__(self) -> str:
        return f"query {self.query}: {self.text}" if self.query else self.text


class Server(ABC):
    """A server's format. options: those of the run that a file is of, as Spec.choose gives them.

    max_bytes: that it takes, None: not known.  header: keys of a file that are no queries.
    """

    max_bytes: int | None = None
    header: tuple[str, ...] = ()

    @abstractmethod
    def claims(self, entries: Mapping[str, Any]) -> bool:
        """Whether a file looks like one of this server's."""

    def options(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the run that a file is of."""
        return {}

    def head(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What stands before the queries."""
        return {}

    def length(self, options: Mapping[str, Any]) -> int:
        """How many images a query has."""
        return 50

    def entry(self, image: str) -> Any:
        """An image as the server names it."""
        return image

    def image(self, entry: Any) -> str:
        """The benchmark's name of an entry. Raises ValueError saying what is wrong with it."""
        if not isinstance(entry, str):
            raise ValueError("is not a name")
        return entry

    def query_ids(self, count: int) -> list[str]:
        """The ids of a split with so many queries; [] where only its annotations tell."""
        return []

    def doubt(self, query_id: str) -> str:
        """What is wrong with an id, as far as it can be known without annotations; '': nothing."""
        return ""

    def examine(
        self,
        entries: Mapping[str, Any],
        options: Mapping[str, Any],
        queries: Mapping[str, Query],
    ) -> list[Finding]:
        """Further findings in a file. queries: by id, {} where they are not known."""
        return []


def lettered(entries: Mapping[str, Any]) -> bool:
    """Whether a file's images are names that have letters, and not numbers of files."""
    lists = (value for value in entries.values() if isinstance(value, list))
    names = (name for value in lists for name in value if isinstance(name, str))
    return any(not n.endswith(".jpg") and any(c.isalpha() for c in n) for n in names)
