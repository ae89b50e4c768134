"""Benchmarks by name: where they are, what they ask, how they are scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imagescope.benchmarks.base import Benchmark, Option, Options, Spec, without_missing
from imagescope.benchmarks.source import DOCS, Fault, Listing, Source, declared_counts, files_in
from imagescope.errors import UserError
from imagescope.registry import BENCHMARKS

__all__ = [
    "Benchmark",
    "Fault",
    "Listing",
    "Option",
    "Options",
    "Source",
    "Spec",
    "family",
    "files_in",
    "inspect",
    "load",
    "load_annotations",
    "options_of",
    "spec",
    "specs",
    "split_of",
]


SHOWN = 5  # faults in one message
ALIASES = {"test1": "test", "valid": "val"}


def spec(name: str) -> Spec:
    """What is known about a benchmark, by its name in any case. Raises UserError for an unknown
    one, and for an object of another package that is no Spec."""
    name = str(name)  # a manifest may say anything
    exact = {entry.lower(): entry for entry in BENCHMARKS}
    its = BENCHMARKS.load(exact.get(name.lower(), name))
    if not isinstance(its, Spec):
        raise UserError(f"benchmark {name}: a Spec expected, got {type(its).__name__}")
    return its


def specs() -> list[Spec]:
    """All of the registry."""
    return [spec(name) for name in BENCHMARKS]


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The benchmark's options in a run's configuration, as a manifest has it; those of other
    benchmarks, which older manifests have, too, are passed over."""
    its = spec(config["dataset"])
    settings = {**config, **(config.get("dataset_options") or {})}
    own = {name: settings.get(name) for name in its.options}
    return its.choose(own, str(config.get("protocol") or "paper"))


def family(name: str) -> list[Spec]:
    """The benchmarks of a family, by its name in any case; [] where there is none of that name."""
    return [s for s in specs() if s.family and s.family.lower() == name.lower()]


def split_of(name: str, split: str) -> str:
    """val or test, as the benchmark has it. Raises UserError where it doesn't."""
    its, split = spec(name), ALIASES.get(str(split), str(split))
    if split not in its.splits:
        raise UserError(f"{its.name} has no split {split}; it has {' and '.join(its.splits)}")
    return split


def load(
    name: str,
    data_root: Path | str,
    split: str,
    *,
    protocol: str = "paper",
    listing: Listing = files_in,
    **options: Any,
) -> Benchmark:
    """A benchmark's split. Annotations alone are enough; which images are missing is counted.

    data_root holds a folder per benchmark (or is that folder).  split: val or test (valid and
    test1 are understood).  options: of the benchmark's Spec; those that are None or not given are
    as the protocol has them.  listing: a folder of images -> its files' names; those on disk, if
    nothing else is given.  Raises UserError for an unknown name, split or option, for files that
    are not there, and for annotations with faults, naming file, index and reason.
    """
    options = spec(name).choose(options, protocol)
    return without_missing(load_annotations(name, data_root, split, options, listing), listing)


def load_annotations(
    name: str,
    data_root: Path | str,
    split: str,
    options: Options | None = None,
    listing: Listing = files_in,
) -> Benchmark:
    """`load` without a look at the images: the queries are as the annotations have them."""
    benchmark, faults = inspect(name, data_root, split, options, listing)
    if faults:
        lines = [f"  {fault}" for fault in faults[:SHOWN]]
        if len(faults) > SHOWN:
            lines.append(f"  and {len(faults) - SHOWN} more")
        raise UserError(
            f"{name} {split}: the annotations are not as published:\n"
            + "\n".join(lines)
            + f"\n`imagescope data check {name}` lists all; {DOCS}"
        )
    return benchmark


def folder_of(its: Spec, root: Path) -> Path | None:
    """Where a benchmark lies below the data root, or the root itself if it is that folder."""
    below = next((root / name for name in its.folders if (root / name).is_dir()), None)
    itself = root.resolve().name.lower() in map(str.lower, its.folders)
    return below or (root if itself else None)


def inspect(
    name: str,
    data_root: Path | str,
    split: str,
    options: Options | None = None,
    listing: Listing = files_in,
) -> tuple[Benchmark, list[Fault]]:
    """The benchmark as its annotations have it, images not looked for, and what is wrong in them.

    options: None: the paper's.  Raises UserError for an unknown name, split or option, and for
    files that are not there.
    """
    its, split = spec(name), split_of(name, split)
    options = its.choose(options or {})
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --data-root names the one with the data")
    folder = folder_of(its, root)
    if folder is None:
        places = ", ".join(str(root / name) for name in its.folders)
        raise UserError(f"{places}: no such folder; {DOCS}")
    source = Source(root / ".." if folder == root else root, folder, split, options, listing)
    queries, gallery = its.read(source)
    benchmark = Benchmark(
        *(its, split, tuple(queries), gallery, options),
        image_places=tuple(source.image_places),
        counts=declared_counts(folder, its.name, split) or its.splits[split],
    )
    return benchmark, source.faults
