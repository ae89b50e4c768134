"""What several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagescope_tiny.datasets import make

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_data() -> Path:
    """The six tiny benchmarks, made once and kept where the demo has them."""
    root = REPO / "data" / "tiny"
    make(root)
    return root
