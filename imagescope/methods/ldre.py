"""LDRE (Yang et al., SIGIR 2024): many captions of the reference, an edit of each, and an ensemble
of the edits in which those weigh more that move away from their caption.

With n sampled captions b_i of the reference and their edits e_i (unit text vectors),
d_i = the sum of the 5 largest values over the gallery of (b_i - e_i) . v_g, where it is positive;
w = softmax(d / max(d) / 0.04);  s(g) = sum_i w_i e_i . v_g.

The paper's figure has the weights inside one query. The release sums d_i over all queries of the
split first, so that a query's ranking depends on the others (`release`), and has no weights at all
on CIRR (`weighting: none`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field

from imagescope.arrays import Array
from imagescope.engines.base import Request
from imagescope.methods.base import Context, Method, Options, Outcome, Stage
from imagescope.methods.parsing import labelled
from imagescope.methods.prompts import CAPTION, PromptKind, fill
from imagescope.records import Item, Query, Texts
from imagescope.search.score import Dot, Positive

LABEL = "Edited description"  # of the line that the prompt asks for
TOKENS = 700  # of an edit, at most


@dataclass(frozen=True)
class Edits:
    """The captions of queries' references, and their edits. A query of which nothing is known has
    its instruction in place of both.

    captions, edits: by query, as many of each.  before, after: their unit vectors, float32
    (queries, n, d), rows of zeros where a query has fewer.  real: bool (queries, n): those there.
    """

    captions: list[tuple[str, ...]]
    edits: list[tuple[str, ...]]
    before: Array
    after: Array
    real: Array


class SampledOptions(Options):
    n: int = Field(15, gt=0, description="captions of the reference, each edited")
    caption_temperature: float = Field(1.0, gt=0, description="at which they are sampled")
    caption_top_p: float = Field(0.9, gt=0, le=1, description="the nucleus they are sampled from")


class LDREOptions(SampledOptions):
    top: int = Field(5, gt=0, description="images whose loss of similarity weighs an edit")
    softmax_temperature: float = Field(0.04, gt=0, description="of the weights")
    weighting: Literal["divergence", "none"] = Field(
        "divergence", description="none: the mean, as the release does on CIRR"
    )
    release: bool = Field(
        False,
        description="weigh each caption's number, over all queries together, not each query's",
    )


class LDRE(Method):
    """See the module."""

    name = "ldre"
    summary = "an ensemble of edited captions, weighted by how far each edit goes"
    paper = "SIGIR 2024"
    label = "faithful"
    Options = LDREOptions
    stages = (
        Stage(
            "stage1",
            "Ensemble of edits",
            "retrieve",
            ("captions", "edit", "weights", "retrieval"),
        ),
    )
    roles = ("captioner", "reasoner")
    prompts = {
        "caption": CAPTION,
        "edit": PromptKind(frozenset({"INSTRUCTION", "REF_IMAGE_DESC"})),
    }
    typical = {"edit": "Edited description: A black dog."}
    needs_reference = True

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        edits = edit(queries, context, self.options)
        weights = self._weights(queries, edits, context)
        vectors = np.einsum("qn,qnd->qd", weights, edits.after)
        score = Dot(vectors.astype(np.float32), context.view("image"))
        findings = [
            {"edits": Texts("Captions and their edits", rows(b, e, [f"{x:.2f}" for x in w]))}
            for b, e, w in zip(edits.captions, edits.edits, weights, strict=True)
        ]
        yield Outcome("stage1", context.search(queries, score), findings, score)

    def _weights(self, queries: Sequence[Query], edits: Edits, context: Context) -> Array:
        """float32 (queries, n), each row's sum 1."""
        options = self.options
        if options.weighting == "none":
            return np.asarray(edits.real / edits.real.sum(1, keepdims=True), np.float32)
        whole = [replace(q, targets=(), candidates=None, exclude=()) for q in queries]
        losses = np.zeros(edits.real.shape, np.float32)
        for i in range(edits.real.shape[1]):
            away = Dot(edits.before[:, i] - edits.after[:, i], context.view("image"))
            best = context.search(whole, Positive(away), options.top)
            losses[:, i] = [sum(ranking.scores) for ranking in best]
        if options.release:
            losses = np.broadcast_to(losses.sum(0), losses.shape)
        return softmax(losses, edits.real, options.softmax_temperature)


def edit(queries: Sequence[Query], context: Context, options: SampledOptions) -> Edits:
    """n sampled captions of each query's reference, and the reasoner's edit of each."""
    references = [q.reference for q in queries if q.reference]
    samples = context.samples(
        references, options.n, options.caption_temperature, options.caption_top_p
    )
    captions = [samples.get(q.reference or "", ()) for q in queries]
    places = [(i, caption) for i, some in enumerate(captions) for caption in some]
    requests = [
        Request(
            fill(
                context.prompts["edit"],
                INSTRUCTION=queries[i].instruction,
                REF_IMAGE_DESC=caption,
            ),
            max_tokens=TOKENS,
        )
        for i, caption in places
    ]
    edits: list[list[str]] = [[] for _ in queries]
    with context.role("reasoner") as reasoner:
        responses = reasoner.ask(requests, "edit", [str(queries[i]) for i, _ in places])
        unread = 0
        for (i, _), response in zip(places, responses, strict=True):
            text = labelled(response.text, LABEL) or " ".join(response.text.split())
            unread += not text and not response.error
            edits[i].append(text or queries[i].instruction)
        reasoner.unread("edit", unread)
    captions = [some or (q.instruction,) for some, q in zip(captions, queries, strict=True)]
    texts = [tuple(e) or (q.instruction,) for e, q in zip(edits, queries, strict=True)]
    before, real = _vectors(captions, context)
    return Edits(captions, texts, before, _vectors(texts, context)[0], real)


def _vectors(groups: Sequence[Sequence[str]], context: Context) -> tuple[Array, Array]:
    """The unit vectors of each group's texts, (groups, longest, d), and which of them are there."""
    flat = context.embed([Item(text) for group in groups for text in group], "query")
    real = np.arange(max(map(len, groups))) < np.array([[len(group)] for group in groups])
    vectors = np.zeros((*real.shape, flat.shape[1]), np.float32)
    vectors[real] = flat
    return vectors, real


def softmax(values: Array, real: Array, temperature: float) -> Array:
    """Of each row's values, as shares of its largest, over those that are there."""
    largest = np.where(real, values, 0).max(1, keepdims=True)
    shares = np.where(largest > 0, values / np.where(largest > 0, largest, 1), 0)
    powers = np.where(real, np.exp((shares - 1) / temperature), 0)
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)


def rows(
    captions: Sequence[str], edits: Sequence[str], labels: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Rows for a page: each edit with its label, behind the caption that it comes from."""
    three = zip(labels, captions, edits, strict=False)
    return tuple((label, f"{caption} → {edited}") for label, caption, edited in three)
