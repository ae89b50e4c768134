"""How far each stage moved the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from imagescope.report.queries import Ranks


@dataclass(frozen=True)
class Movement:
    """What lies between two rankings, in queries whose target stands in both.

    to_first, from_first: targets that reached rank 1, and that lost it.
    """

    label: str
    helped: int
    hurt: int
    unchanged: int
    to_first: int
    from_first: int

    @property
    def total(self) -> int:
        return self.helped + self.hurt + self.unchanged


def movement(label: str, before: Sequence[int | None], after: Sequence[int | None]) -> Movement:
    """Counts targets by whether their 0-based rank fell (helped), rose (hurt) or stayed."""
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    return Movement(
        label,
        helped=sum(a < b for b, a in pairs),
        hurt=sum(a > b for b, a in pairs),
        unchanged=sum(a == b for b, a in pairs),
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


@dataclass(frozen=True)
class Example:
    """A query that the stages helped most, or hurt most: its words, its images by number (reference
    -1: none), and its target's rank before and after, from 1."""

    better: bool
    text: str
    reference: int
    target: int
    before: int
    after: int


def examples(rows: Sequence[Sequence[Any]]) -> list[Example]:
    """The most helped and the most hurt of a page's rows (queries.row), the first where several
    are alike; of a dialogue from its first round to its last. Only where there is one."""
    dialogues: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        dialogues.setdefault(row[0], []).append(row)
    changes = []
    for turns in dialogues.values():
        first, last = min(turns, key=itemgetter(1)), max(turns, key=itemgetter(1))
        before, after = first[5][0], last[5][-1]
        if before is not None and after is not None:
            shown = (first[2], first[3], last[4][0], before + 1, after + 1)
            changes.append((before - after, shown))
    found = []
    if changes:
        best, worst = max(changes, key=itemgetter(0)), min(changes, key=itemgetter(0))
        found += [Example(True, *best[1])] if best[0] > 0 else []
        found += [Example(False, *worst[1])] if worst[0] < 0 else []
    return found
