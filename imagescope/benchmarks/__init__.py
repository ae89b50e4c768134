"""The six benchmarks: where they are, what they ask, how they are scored."""

from __future__ import annotations

from pathlib import Path

from imagescope.benchmarks import circo, cirr, fashioniq, flickr30k, mscoco, visdial
from imagescope.benchmarks.base import (
    DOCS,
    Benchmark,
    Fault,
    Listing,
    Options,
    Source,
    Spec,
    declared_counts,
    files_in,
    without_missing,
)
from imagescope.errors import UserError

__all__ = [
    "NAMES",
    "SPECS",
    "Benchmark",
    "Fault",
    "Listing",
    "Options",
    "Spec",
    "files_in",
    "inspect",
    "load",
    "load_annotations",
    "spec",
    "split_of",
]

SPECS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        circo.SPEC,
        cirr.SPEC,
        *fashioniq.SPECS,
        flickr30k.SPEC,
        mscoco.SPEC,
        visdial.SPEC,
    )
}
NAMES = tuple(SPECS)
DEFAULT = Options()
SHOWN = 5  # faults in one message
ALIASES = {"test1": "test", "valid": "val"}


def spec(name: str) -> Spec:
    """A benchmark's metadata by name, in any case. Raises UserError for an unknown one."""
    for known in SPECS.values():
        if known.name.lower() == name.lower():
            return known
    raise UserError(f"no benchmark is named {name}; there are {', '.join(NAMES)}")


def split_of(name: str, split: str) -> str:
    """val or test, as the benchmark has it. Raises UserError where it doesn't."""
    known, split = spec(name), ALIASES.get(split, split)
    if split not in known.splits:
        raise UserError(f"{known.name} has no split {split}; it has {' and '.join(known.splits)}")
    return split


def load(
    name: str,
    data_root: Path | str,
    split: str,
    *,
    exclude_reference: bool = False,
    first_round: int = 1,
    subset: bool = False,
    shared_concept: bool = False,
    listing: Listing = files_in,
) -> Benchmark:
    """A benchmark's split. Annotations alone are enough; which images are missing is counted.

    data_root holds a folder per benchmark (or is that folder).  split: val or test (valid and
    test1 are understood).  listing: a folder of images -> its files' names; those on disk, if
    nothing else is given.  Raises UserError for an unknown name or split, for files that are not
    there, and for annotations with faults, naming file, index and reason.
    """
    options = Options(exclude_reference, first_round, subset, shared_concept)
    return without_missing(load_annotations(name, data_root, split, options, listing), listing)


def load_annotations(
    name: str,
    data_root: Path | str,
    split: str,
    options: Options = DEFAULT,
    listing: Listing = files_in,
) -> Benchmark:
    """`load` without a look at the images: the queries are as the annotations have them."""
    benchmark, faults = inspect(name, data_root, split, options, listing)
    if faults:
        more = len(faults) - SHOWN
        lines = [f"  {fault}" for fault in faults[:SHOWN]] + [f"  and {more} more"] * (more > 0)
        raise UserError(
            f"{name} {split}: the annotations are not as published:\n"
            + "\n".join(lines)
            + f"\n`imagescope data check {name}` lists all; {DOCS}"
        )
    return benchmark


def folder_of(known: Spec, root: Path) -> Path | None:
    """Where a benchmark lies below the data root, or the root itself if it is that folder."""
    below = next((root / name for name in known.folders if (root / name).is_dir()), None)
    itself = root.resolve().name.lower() in map(str.lower, known.folders)
    return below or (root if itself else None)


def inspect(
    name: str,
    data_root: Path | str,
    split: str,
    options: Options = DEFAULT,
    listing: Listing = files_in,
) -> tuple[Benchmark, list[Fault]]:
    """The benchmark as its annotations have it, images not looked for, and what is wrong in them.

    Raises UserError for an unknown name or split, for options that the benchmark does not have, and
    for files that are not there.
    """
    known, split = spec(name), split_of(name, split)
    if options.subset and known.name != "CIRR":
        raise UserError(f"subset is CIRR's: {known.name} has no image sets")
    if options.shared_concept and known.name != "CIRCO":
        raise UserError(f"shared_concept is CIRCO's: {known.name} has none")
    root = Path(data_root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --data-root names the one with the data")
    folder = folder_of(known, root)
    if folder is None:
        places = ", ".join(str(root / name) for name in known.folders)
        raise UserError(f"{places}: no such folder; {DOCS}")
    source = Source(root / ".." if folder == root else root, folder, split, options, listing)
    queries, gallery = known.read(source)
    benchmark = Benchmark(
        *(known, split, tuple(queries), gallery, options),
        image_places=tuple(source.image_places),
        counts=declared_counts(folder, known.name, split) or known.splits[split],
    )
    return benchmark, source.faults
