"""What several test files share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagescope.registry import Registry
from imagescope_tiny.datasets import make

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_data() -> Path:
    """The six tiny benchmarks, made once and kept where the demo has them."""
    root = REPO / "data" / "tiny"
    make(root)
    return root


@pytest.fixture
def register() -> Iterator[Callable[[Registry, str, Any], None]]:
    """Puts an object into a registry under a name, for the test's time."""
    added: list[tuple[Registry, str]] = []

    def add(registry: Registry, name: str, value: Any) -> None:
        registry.add(name, value)
        added.append((registry, name))

    yield add
    for registry, name in added:
        registry.remove(name)
