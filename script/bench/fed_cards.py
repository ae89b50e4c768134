"""How busy big cards are, fed in chunks as before and fed as they have room: a simulation.

Nothing runs on a card here. A card decodes one token of every request that it works on in
STEP + TOKEN x (requests) seconds: a line through two published figures for an 8B model in vLLM,
about 150 tokens/s for one request on an H100 (twice an A100's 75, johnmusgrave.com, "vLLM
throughput-latency sweep on NVIDIA A100") and about 12,500 tokens/s with a full batch
(morphllm.com/vllm-benchmarks). Utilisation is the share of that full batch's rate that was reached
until the last answer. Lengths are log-normal. Before: a replica gets 256 requests, and the next
ones when all are answered. Now: it gets 64 whenever it has fewer than twice its batch.

    python script/bench/fed_cards.py --json fed_cards.json
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

BATCH = 1024  # requests a card works on at a time: vLLM's default on a big card
FULL = 12_500.0  # tokens a second of a full batch
STEP = 1 / 150
TOKEN = (BATCH / FULL - STEP) / BATCH


def simulate(lengths: list[int], cards: int, chunk: int, most: int, whole: bool) -> float:
    """Seconds until all answers are there.

    chunk: requests sent at a time.  most: a card gets no more while it has as many.  whole: it gets
    none before all it has are answered.
    """
    waiting = list(reversed(lengths))
    # of each card: the ends of its requests, in tokens that it decoded for each of its places
    running: list[list[int]] = [[] for _ in range(cards)]
    queued: list[list[int]] = [[] for _ in range(cards)]
    decoded = [0] * cards
    clock = [(0.0, card) for card in range(cards)]
    end = 0.0
    while clock:
        now, card = heapq.heappop(clock)
        has = len(running[card]) + len(queued[card])
        while waiting and (not has if whole else has < most):
            part = [waiting.pop() for _ in range(min(chunk, len(waiting)))]
            queued[card] += part
            has += len(part)
        while queued[card] and len(running[card]) < BATCH:
            heapq.heappush(running[card], decoded[card] + queued[card].pop(0))
        if not running[card]:
            end = max(end, now)
            continue
        # until the first of its requests ends, the batch stays as it is
        steps = running[card][0] - decoded[card]
        now += steps * (STEP + TOKEN * len(running[card]))
        decoded[card] += steps
        while running[card] and running[card][0] <= decoded[card]:
            heapq.heappop(running[card])
        heapq.heappush(clock, (now, card))
    return end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=8192, help="for each card")
    parser.add_argument("--tokens", type=int, default=200, help="median length of an answer")
    parser.add_argument("--spread", type=float, default=0.8, help="sigma of its logarithm")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    figures: dict[str, Any] = {"batch": BATCH, "step": STEP, "token": TOKEN}
    table = Table("cards", "requests", "chunks of 256", "as there is room", "times as fast")
    for cards in (1, 8, 64):
        rng = Random(cards)
        count = args.requests * cards
        lengths = [
            max(1, round(args.tokens * math.exp(rng.gauss(0, args.spread)))) for _ in range(count)
        ]
        ideal = sum(lengths) / (cards * FULL)
        before = simulate(lengths, cards, 256, 256, whole=True)
        now = simulate(lengths, cards, 64, 2 * BATCH, whole=False)
        figures[str(cards)] = {"before": ideal / before, "now": ideal / now, "ratio": before / now}
        table.add_row(
            *(str(cards), f"{count:,}", f"{ideal / before:.0%}", f"{ideal / now:.0%}"),
            f"{before / now:.2f}",
        )
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
