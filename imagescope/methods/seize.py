"""SEIZE (Yang et al., ACM MM 2024): LDRE's captions and edits, each side as one mean, and what the
edit gains or loses in similarity counted on top.

b, e = the means of the captions' and of the edits' unit vectors, normalised;  gain = (e - b) . v_g;
s(g) = e . v_g + loss_weight min(gain, 0) + gain_weight max(gain, 0), without the reference.

The weights are the release's defaults, which its comments give for CIRCO at ViT-L; others are named
there without a full table, and the paper's one weight for both is not known. The release takes the
mean before it normalises.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from imagescope.arrays import Array
from imagescope.methods.base import Context, Method, Outcome, Stage
from imagescope.methods.ldre import LDRE, Edits, SampledOptions, edit, rows
from imagescope.records import Query, Texts
from imagescope.search.score import Dot, Negative, Positive


class SEIZEOptions(SampledOptions):
    loss_weight: float = Field(2.1, ge=0, description="of similarity that the edit takes away")
    gain_weight: float = Field(0.13, ge=0, description="of similarity that the edit brings")
    drop_reference: bool = Field(True, description="the reference is not ranked")


class SEIZE(Method):
    """See the module."""

    name = "seize"
    summary = "means of captions and edits; what the edit gains and loses counts on top"
    paper = "ACM MM 2024"
    label = "from paper, settings ours"
    prompts, prompts_of, typical, roles = LDRE.prompts, LDRE.name, LDRE.typical, LDRE.roles
    needs_reference = True
    Options = SEIZEOptions
    stages = (
        Stage(
            "stage1", "Semantic editing increment", "retrieve", ("captions", "edit", "retrieval")
        ),
    )

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        options, view = self.options, context.view("image")
        edits = edit(queries, context, options)
        before, after = mean(edits.before, edits), mean(edits.after, edits)
        gain = Dot(after - before, view)
        score = (
            Dot(after, view)
            + options.loss_weight * Negative(gain)
            + options.gain_weight * Positive(gain)
        )
        if options.drop_reference:
            queries = [replace(q, exclude=(*q.exclude, q.reference or "")) for q in queries]
        findings = [
            {"edits": Texts("Captions and their edits", rows(b, e, [""] * len(b)))}
            for b, e in zip(edits.captions, edits.edits, strict=True)
        ]
        yield Outcome("stage1", context.search(queries, score), findings, score)


def mean(vectors: Array, edits: Edits) -> Array:
    """The normalised mean of each query's vectors, float32 (queries, d)."""
    means = vectors.sum(1) / edits.real.sum(1, keepdims=True)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1), np.float32)
