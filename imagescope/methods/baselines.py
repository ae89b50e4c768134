"""The controls that every paper should report: one modality alone, and both added.

What they reach says how much of a benchmark needs no composition. No language model is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from imagescope.methods.base import Context, Method, Options, Outcome, Stage
from imagescope.records import Item, Query, Synthesis
from imagescope.search.score import Dot


class TextOnly(Method):
    """Ranks by the instruction's vector."""

    name = "text-only"
    summary = "the instruction's vector alone"
    label = "control"
    stages = (Stage("stage1", "Retrieval", "retrieve", ("retrieval",), ("synthesis",)),)
    image_weight = 0.0

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        weight, files = self.image_weight, context.gallery.files
        # a query without a reference, or with one that cannot be read, has its text alone
        paths = [files.get(query.reference or "") for query in queries]
        texts = [Item(query.instruction) for query in queries]
        references = [Item(images=(path,) if path else ()) for path in paths]
        parts = [(1 - weight, texts), (weight, references)]
        vectors = sum(w * context.embed(items, "query") for w, items in parts if w)
        score = Dot(np.asarray(vectors, np.float32), context.view("image"))
        said = [(q.instruction,) if weight < 1 else () for q in queries]
        findings = [{"synthesis": Synthesis("", (), descriptions)} for descriptions in said]
        yield Outcome("stage1", context.search(queries, score), findings, score)


class ImageOnly(TextOnly):
    """Ranks by the reference's vector."""

    name = "image-only"
    summary = "the reference's vector alone"
    needs_reference = True
    image_weight = 1.0


class ImageTextOptions(Options):
    weight: float = Field(0.5, ge=0, le=1, description="of the reference against the instruction")


class ImageText(TextOnly):
    """Ranks by the weighted sum of both unit vectors, as BGE-VL's CLIP kind composes a query."""

    name = "image+text"
    summary = "the sum of the reference's and the instruction's vectors"
    Options = ImageTextOptions
    needs_reference = True

    def __init__(self, options: ImageTextOptions):
        super().__init__(options)
        self.image_weight = options.weight
