"""CIReVL (Karthik et al., ICLR 2024): caption the reference, let a language model edit the caption,
and rank by the edited caption alone.

s(g) = n(E_T(edit)) . n(E_I(g)); no settings. The released code cuts an edit at its second colon;
we keep it whole unless `cut_at_colon` asks for the release's way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from imagescope.engines.base import Request, Response
from imagescope.methods.base import Context, Method, Options, Outcome, Stage
from imagescope.methods.parsing import labelled
from imagescope.methods.prompts import CAPTION, PromptKind, fill
from imagescope.records import Item, Query, Synthesis
from imagescope.search.score import Dot

LABEL = "Edited description"  # of the line that the prompt asks for
TOKENS = 700  # of an edit, at most: the release's


class CIReVLOptions(Options):
    cut_at_colon: bool = Field(
        False,
        description="end an edit at its second colon, as the release does",
        json_schema_extra={"paper": True},
    )


class CIReVL(Method):
    """See the module."""

    name = "cirevl"
    summary = "caption the reference, edit the caption, retrieve by it"
    paper = "arXiv 2310.09291"
    label = "faithful"
    Options = CIReVLOptions
    stages = (
        Stage(
            "stage1",
            "Caption edit and retrieval",
            "retrieve",
            ("edit", "retrieval"),
            ("synthesis",),
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
        captions = context.captions([q.reference for q in queries if q.reference])
        requests = [
            Request(
                fill(
                    context.prompts["edit"],
                    INSTRUCTION=q.instruction,
                    REF_IMAGE_DESC=captions.get(q.reference or "", ""),
                ),
                max_tokens=TOKENS,
            )
            for q in queries
        ]
        with context.role("reasoner") as reasoner:
            responses = reasoner.ask(requests, "edit", [str(q) for q in queries])
            syntheses = [
                self._synthesis(query, captions.get(query.reference or "", ""), response)
                for query, response in zip(queries, responses, strict=True)
            ]
            reasoner.unread("edit", sum(s.parse.startswith("fallback") for s in syntheses))
        texts = context.embed([Item(text=s.descriptions[0]) for s in syntheses], "query")
        score = Dot(texts, context.view("image"))
        yield Outcome(
            "stage1", context.search(queries, score), [{"synthesis": s} for s in syntheses], score
        )

    def _synthesis(self, query: Query, caption: str, response: Response) -> Synthesis:
        """The edit, or the instruction itself where there is none (the release's fallback)."""
        edit = labelled(response.text, LABEL, cut_at_colon=self.options.cut_at_colon)
        parse = "ok" if edit else f"fallback: {response.error or 'no edited description'}"
        descriptions = (edit or query.instruction,)
        return Synthesis(caption, (), descriptions, text=response.text, parse=parse)
