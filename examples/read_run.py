"""Read a run's traces: which targets each stage moved, and what the models said about one.

python examples/read_run.py runs/CIRR/default/RUN
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

from imagescope.records import Trace
from imagescope.runs.folder import read_traces


def target_ranks(trace: Trace) -> list[int]:
    """Where the target stood after each stage, from 1; a target that is not in the pool is last."""
    target = (trace.query.targets or ("",))[0]
    return [r.ranks.get(target, r.pool) + 1 for r in trace.rankings.values()]


def explain(trace: Trace) -> None:
    arrows = " → ".join(map(str, target_ranks(trace)))
    print(f"\n{trace.query.id}: {trace.query.instruction}\n  target's rank: {arrows}")
    for edit in trace.synthesis.edits:
        print(f"  {edit.type}: {edit.text}")
    for description in trace.synthesis.descriptions:
        print(f"  looked for: {description}")
    for question in trace.synthesis.questions:
        print(f"  asked: {question.text} ({'yes' if question.expected else 'no'} expected)")
    for judgement in trace.evaluation.judgements if trace.evaluation else ():
        print(f"  {judgement.candidate}: {'accepted' if judgement.accepted else 'not accepted'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    traces = read_traces(parser.parse_args().run)
    traces = [trace for trace in traces if trace.query.targets]  # others' are hidden
    if not traces:
        raise SystemExit("the targets of this run's split are hidden")
    for before, after in pairwise(enumerate(traces[0].rankings)):
        moves = [target_ranks(trace) for trace in traces]
        helped = sum(ranks[after[0]] < ranks[before[0]] for ranks in moves)
        hurt = sum(ranks[after[0]] > ranks[before[0]] for ranks in moves)
        same = len(moves) - helped - hurt
        print(f"{before[1]} → {after[1]}: {helped} helped, {hurt} hurt, {same} unchanged")
    gains = sorted(traces, key=lambda t: target_ranks(t)[-1] - target_ranks(t)[0])
    explain(gains[0])  # the most helped
    if len(gains) > 1:
        explain(gains[-1])  # the least, or most hurt


if __name__ == "__main__":
    main()
