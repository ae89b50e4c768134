"""How far each stage moved the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imagescope.report.queries import Ranks


@dataclass(frozen=True)
class Movement:
    """What lies between two rankings, in queries whose target stands in both.

    to_first, from_first: targets that reached rank 1, and that lost it.
    """

    label: str
    helped: int
    hurt: int
    left: int
    to_first: int
    from_first: int

    @property
    def total(self) -> int:
        return self.helped + self.hurt + self.left


def movement(label: str, before: Sequence[int | None], after: Sequence[int | None]) -> Movement:
    """Counts targets by whether their 0-based rank fell (helped), rose (hurt) or stayed."""
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return Movement(
        label,
        helped=sum(a < b for b, a in pairs),
        hurt=sum(a > b for b, a in pairs),
        left=sum(a == b for b, a in pairs),
        to_first=sum(a == 0 < b for b, a in pairs),
        from_first=sum(b == 0 < a for b, a in pairs),
    )


def movements(ranks: Sequence[Ranks], labels: Sequence[str]) -> list[Movement]:
    """One Movement for each stage after the first, and one for all together if there are two."""
    columns = [[r[i] for r in ranks] for i in range(len(labels))]
    found = [movement(labels[i], columns[i - 1], columns[i]) for i in range(1, len(labels))]
    if len(found) > 1:
        found.append(movement("All stages", columns[0], columns[-1]))
    return [m for m in found if m.total]
