"""YAML from anybody: plain values, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from imagescope.errors import UserError

LONGEST = 64 << 10  # bytes; the parser takes a second for so many
MOST_VALUES = 10_000  # of a YAML file, with its aliases written out


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, or a UserError that names file and line. The file may be anybody's: it is
    read as plain values, and no alias makes more of them than a file of this size can need."""
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
        if len(content) > LONGEST:
            raise UserError(f"{path}: longer than {LONGEST >> 10} KiB: not a configuration")
        loader = yaml.SafeLoader(content.decode())
        node = loader.get_single_node()
        if node and _values(node, {}) > MOST_VALUES:
            raise UserError(f"{path}: more than {MOST_VALUES} values with aliases written out")
        data = loader.construct_document(node) if node else None
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: not valid YAML: nested too deep") from None
    except Exception as error:  # a value that its tag does not fit (!!int x) is of many kinds
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected options (name: value), got {type(data).__name__}")
    return data


def _values(node: yaml.Node, counts: dict[int, float]) -> float:
    """How many values a node stands for, each alias counted in full; a node within itself: inf."""
    if id(node) not in counts:
        counts[id(node)] = float("inf")
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        inner = [child for part in parts for child in (part if isinstance(part, tuple) else [part])]
        counts[id(node)] = 1 + sum(_values(child, counts) for child in inner)
    return counts[id(node)]
