"""Search a folder of pictures from Python: by a description, then by a picture and a change.

python examples/own_pictures.py data/tiny/FashionIQ/images "a red circle" --change "make it blue"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from imagescope import ImageScope
from imagescope.own.answers import Result
from imagescope.own.indexing import build


def show(results: Iterable[Result]) -> None:
    for result in results:
        print(f"  {result.rank}. {result.path.name}: {result.explanation.caption}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", help="what to look for")
    parser.add_argument("--change", help="then what is to be different from the best of it")
    parser.add_argument("--models", default="tiny", help="a set of configs/models, or a file")
    given = parser.parse_args()

    index = build(given.folder, models=given.models)  # again: only what has changed
    print(f"{index.name}: {len(index.manifest.pictures)} pictures")
    with ImageScope.open(index.name) as scope:  # models are loaded once, at the first question
        answer = scope.search(given.text, top=3)
        print(given.text)
        show(answer)
        if given.change:
            best = answer[0].path
            for answer in scope.stages(given.change, reference=best, top=3):
                print(f"{best.name}, but {given.change} ({answer.title})")
                show(answer)


if __name__ == "__main__":
    main()
