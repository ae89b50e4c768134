"""What models left unanswered or said without being understood, and when that ends a run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from imagescope.engines.role import Step
from imagescope.errors import UserError
from imagescope.records import Trace

log = logging.getLogger("imagescope")
LONGEST = 300  # characters of an error that a message quotes
KEPT = "What was answered is kept; the same command asks only the rest."


def check(name: str, step: Step, limit: float) -> None:
    """Warns of a step's errors, and where not one of its answers was understood.

    limit: the share of its requests, in [0, 1], that may be errors. Raises UserError where there
    are more, or where nothing at all was answered.
    """
    message = warning(name, step)
    if step.errors and not step.answered:
        raise UserError(f"{message}. {KEPT}")
    if step.errors > limit * (step.errors + step.answered):
        raise UserError(
            f"{message}: more than {limit:.1%} (fail_on_error). {KEPT} To go on without those "
            "answers: --fail-on-error 1"
        )
    if message:
        log.warning("%s", message)


def warning(name: str, step: Step) -> str:
    """What a reader of the results must know of a step; "" where there is nothing."""
    if step.errors:
        reasons = "; ".join(reason[:LONGEST] for reason in step.reasons)
        refused = f" ({step.refused:,} refused)" if step.refused else ""
        total = step.errors + step.answered
        return f"{name}: {step.errors:,} of {total:,} requests got no answer{refused}: {reasons}"
    if step.unread and step.unread >= step.answered:
        return (
            f"{name}: not one of {step.answered:,} answers could be understood, so this step says "
            "nothing. Look at some in traces.jsonl: is it the right model, template and prompt?"
        )
    if step.not_finite:
        return f"{name}: {step.not_finite:,} scores are no finite numbers: those images stand last"
    return ""


def warnings(steps: Mapping[str, Step]) -> list[str]:
    """The warnings of all steps, in their order."""
    return [message for name, step in steps.items() if (message := warning(name, step))]


def count_fallbacks(traces: Iterable[Trace]) -> dict[str, int]:
    """How often each part had to cope, by kind; 'ok' is not counted."""
    counts: Counter[str] = Counter()
    for trace in traces:
        s = trace.synthesis
        counts[f"synthesis {s.parse}"] += s.parse != "ok"
        counts[f"questions {s.questions_parse}"] += s.questions_parse != "ok"
        if trace.verification:
            missing = sum(a is None for row in trace.verification.answers for a in row)
            unread = len(trace.verification.unread)
            counts["verification: answers missing"] += missing - unread
            counts["verification: not understood"] += unread
        if trace.evaluation:
            unjudged = sum(not j.judged for j in trace.evaluation.judgements)
            counts["evaluation: not judged"] += unjudged
            unread = sum(j.unread for j in trace.evaluation.judgements)
            counts["evaluation: not understood"] += unread
    return {kind: n for kind, n in sorted(counts.items()) if n}
