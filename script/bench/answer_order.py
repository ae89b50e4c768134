"""How often an answer depends on its company: the same requests in two orders, one engine.

python script/bench/answer_order.py --engine vllm --json answer_order.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from engine_feed import questions, texts
from rich.console import Console
from rich.table import Table

from imagescope.config import load_models
from imagescope.engines import open_engine
from imagescope.engines.base import collect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="tiny", help="a set of configs/models, or a file")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--requests", type=int, default=1024, help="of each kind")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    models, figures = load_models(args.models), dict[str, Any]()
    table = Table("requests", "asked", "other text", "largest change of P(yes)")
    with tempfile.TemporaryDirectory() as folder:
        for name, config in (("texts", models.reasoner), ("yes or no", models.verifier)):
            rng = Random(1)
            if name == "texts":
                requests = texts(args.requests, rng)
            else:
                requests = questions(args.requests, Path(folder), rng)
            order = rng.sample(range(len(requests)), len(requests))
            engine = open_engine(config, args.engine)
            first = collect(engine, requests)
            engine.close()  # nothing of the first pass is left in a prefix cache
            second = collect(engine, [requests[i] for i in order])
            engine.close()
            pairs = [(first[i], response) for i, response in zip(order, second, strict=True)]
            others = sum(a.text != b.text for a, b in pairs)
            shifts = [
                abs(a.probabilities[0] - b.probabilities[0]) for a, b in pairs if a.probabilities
            ]
            figures[name] = {
                "requests": len(pairs),
                "other_text": others,
                "shift": max(shifts, default=0),
            }
            shift = f"{max(shifts):.1e}" if shifts else ""
            table.add_row(name, f"{len(pairs):,}", f"{others} ({others / len(pairs):.2%})", shift)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
