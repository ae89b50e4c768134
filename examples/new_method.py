"""A method of one's own in forty lines, beside the two that it stands between, on drawn scenes.

imagescope tiny make data/tiny
python examples/new_method.py --out build/new_method
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from imagescope.benchmarks.metrics import estimate, recall, target_ranks
from imagescope.config import load_run
from imagescope.engines.base import Request
from imagescope.methods.base import Context, Method, Options, Outcome, Stage
from imagescope.methods.parsing import labelled
from imagescope.methods.prompts import CAPTION, PromptKind, fill
from imagescope.records import Item, Query, Synthesis
from imagescope.registry import METHODS
from imagescope.runs.pipeline import run
from imagescope.search.score import Dot


class EditOptions(Options):
    weight: float = Field(0.5, ge=0, le=1, description="of captions against images")


class EditAndCaptions(Method):
    """An edited caption of the reference, matched with the images and with their captions."""

    name = "edit+captions"
    summary = "an edited caption, matched with images and captions"
    Options = EditOptions
    stages = (Stage("stage1", "Edit and retrieval", "retrieve", ("edit", "retrieval")),)
    roles = ("captioner", "reasoner")
    prompts = {
        "caption": CAPTION,
        "edit": PromptKind(
            frozenset({"INSTRUCTION", "REF_IMAGE_DESC"}),
            text="Image: [[REF_IMAGE_DESC]]\nEdit: [[INSTRUCTION]]",  # what the tiny reasoner knows
        ),
    }
    typical = {"edit": "Edited description: a red square"}
    needs_reference = True

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        captions = context.captions()
        described = [captions.get(query.reference or "", "") for query in queries]
        prompt, weight = context.prompts["edit"], self.options.weight
        requests = [
            Request(
                fill(prompt, INSTRUCTION=query.instruction, REF_IMAGE_DESC=caption), max_tokens=700
            )
            for query, caption in zip(queries, described, strict=True)
        ]
        with context.role("reasoner") as reasoner:
            responses = reasoner.ask(requests, "edit", [str(query) for query in queries])
        edits = [labelled(response.text, "Edited description") for response in responses]
        # no edit: the instruction is what there is to go by
        texts = [edit or query.instruction for edit, query in zip(edits, queries, strict=True)]
        vectors = context.embed([Item(text) for text in texts], "query")
        images, words = (Dot(vectors, context.view(kind)) for kind in ("image", "caption"))
        score = (1 - weight) * images + weight * words
        findings = [
            {"synthesis": Synthesis(caption, (), (text,))}
            for caption, text in zip(described, texts, strict=True)
        ]
        yield Outcome("stage1", context.search(queries, score), findings, score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/FashionIQ-dress.yaml")
    parser.add_argument("--data-root", type=Path, default=Path("data/tiny"))
    parser.add_argument("--out", type=Path, default=Path("."))
    given = parser.parse_args()
    places = {"data_root": given.data_root, "image_db": given.out / "image_db"}
    places["runs"] = given.out / "runs"
    common = {"models": "tiny", "engine": "transformers", "split": "val", **places}

    METHODS.add(EditAndCaptions.name, EditAndCaptions)  # a package would have an entry point
    for method in ("image+text", "cirevl", EditAndCaptions.name):
        result = run(load_run(given.config, {"method": method, **common}))
        queries = [trace.query for trace in result.traces]
        rankings = [trace.rankings["stage1"] for trace in result.traces]
        first = estimate(recall(target_ranks(queries, rankings), [1])["Recall@1"])
        print(f"{method:14} Recall@1 {first:.1f}   {result.folder}")


if __name__ == "__main__":
    main()
