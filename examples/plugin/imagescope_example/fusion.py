"""A method: what a description of the target finds and what the reference finds, fused by rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from imagescope.engines.base import Request
from imagescope.methods.base import Context, Method, Options, Outcome, Stage
from imagescope.methods.prompts import PromptKind, fill
from imagescope.records import Item, Query, Synthesis
from imagescope.search.fuse import rrf
from imagescope.search.score import Dot

ASK = "Describe in a few words the picture that is asked for: [[INSTRUCTION]]"


class FusionOptions(Options):
    k: int = Field(60, gt=0, description="the larger, the less a first place counts")


class Fusion(Method):
    name = "example-fusion"
    summary = "a written description and the reference, fused by rank"
    Options = FusionOptions
    stages = (Stage("stage1", "Fusion", "fusion", ("describe", "retrieval")),)
    roles = ("reasoner",)
    prompts = {"describe": PromptKind(frozenset({"INSTRUCTION"}), text=ASK)}
    typical = {"describe": "a red square"}

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        prompt, files = context.prompts["describe"], context.gallery.files
        requests = [
            Request(fill(prompt, INSTRUCTION=q.instruction), max_tokens=40) for q in queries
        ]
        with context.role("reasoner") as reasoner:
            responses = reasoner.ask(requests, "describe", [str(q) for q in queries])
            reasoner.unread("describe", sum(not (r.text or r.error) for r in responses))
        # no answer: the instruction itself is what there is to go by
        texts = [r.text or q.instruction for q, r in zip(queries, responses, strict=True)]
        paths = [files[q.reference] if q.reference else None for q in queries]
        words = context.embed([Item(text=text) for text in texts], "query")
        references = [Item(images=(path,) if path else ()) for path in paths]
        pictures = context.embed(references, "query")
        by_words = context.search(queries, Dot(words, context.view("image")))
        by_picture = context.search(queries, Dot(pictures, context.view("image")))
        rankings = [
            rrf([text, picture] if path else [text], self.options.k)
            for path, text, picture in zip(paths, by_words, by_picture, strict=True)
        ]
        findings = [{"synthesis": Synthesis("", (), (text,))} for text in texts]
        yield Outcome("stage1", rankings, findings)
