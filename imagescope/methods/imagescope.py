"""ImageScope (arXiv 2503.10166, WWW 2025): reason, retrieve, verify, compare.

Stage 1 ranks by the descriptions d of the target that the reasoner wrote,
s(g) = mean_d [(1 - tau) t_d . v_g + tau t_d . c_g] (section 3.2). Stage 2 sorts the best K by the
yes/no questions they answer as expected (section 3.3). Stage 3 compares the best alpha with the
reference, pair by pair, and moves the first accepted one to the front (section 3.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field, field_validator

from imagescope.methods.base import Context, Method, Options, Outcome, Stage, Words
from imagescope.methods.evaluation import evaluate
from imagescope.methods.prompts import KINDS
from imagescope.methods.synthesis import ask_questions, synthesise
from imagescope.methods.verification import verify
from imagescope.records import Query
from imagescope.search.score import Dot

STAGES = ("s1", "s2", "s3")


class ImageScopeOptions(Options):
    """The paper's parameters."""

    tau: float = Field(0.15, ge=0, le=1, description="weight of captions against images")
    top_k: int = Field(20, gt=0, description="candidates that are verified")
    alpha: int = Field(3, gt=0, description="candidates compared with the reference")
    stages: Words = Field(STAGES, description="s1, s1 s2, or s1 s2 s3")
    speculative: bool | None = Field(
        None, description="compare all alpha at once; by default where that costs no more"
    )

    @field_validator("stages")
    @classmethod
    def _stages_in_order(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != STAGES[: len(value)] or not value:
            raise ValueError("stages build on each other: s1, or s1 s2, or s1 s2 s3")
        return value


class ImageScope(Method):
    """See the module."""

    name = "imagescope"
    summary = "reason, retrieve, verify with questions, compare pair by pair"
    paper = "arXiv 2503.10166"
    label = "faithful"
    Options = ImageScopeOptions
    stages: tuple[Stage, ...] = (
        Stage(
            "stage1", "Semantic synthesis", "retrieve", ("synthesis", "retrieval"), ("synthesis",)
        ),
        Stage(
            "stage2",
            "Predicate verification",
            "rerank",
            ("questions", "verification"),
            ("verification",),
        ),
        Stage("stage3", "Pairwise evaluation", "eval", ("evaluation",), ("evaluation",)),
    )
    roles: tuple[str, ...] = ("captioner", "reasoner", "verifier", "evaluator")
    prompts = KINDS
    typical = {
        "synthesis": '{"step1": [["Modification", "make the dog black"]], '
        '"step2": ["A black dog."]}',
        "questions": '{"step2": [["Is there a dog?", "True"], ["Is the dog black?", "True"], '
        '["Is there a cat?", "False"]]}',
        "verification": "Yes",
        "evaluation": "ANSWER: No",
    }

    dialogues = True

    def __init__(self, options: ImageScopeOptions):
        super().__init__(options)
        self.stages = type(self).stages[: len(options.stages)]
        self.roles = type(self).roles[: 1 + len(options.stages)]  # stage 1 asks two, the others one

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        options, prompts, reading = self.options, context.prompts, context.reading
        captions, files = context.captions(), context.gallery.files
        with context.role("reasoner") as reasoner:
            syntheses = synthesise(queries, captions, reasoner, prompts, reading)
            # stage 2's questions as well, where to ask them later would load the reasoner again
            early = len(self.stages) > 1 and not context.resident
            if early:
                syntheses = ask_questions(queries, syntheses, reasoner, prompts, reading)
        texts = context.means([s.descriptions for s in syntheses])
        images, captioned = Dot(texts, context.view("image")), Dot(texts, context.view("caption"))
        score = (1 - options.tau) * images + options.tau * captioned
        rankings = context.search(queries, score)
        yield Outcome("stage1", rankings, [{"synthesis": s} for s in syntheses], score)
        if len(self.stages) == 1:
            return

        if not early:
            with context.role("reasoner") as reasoner:
                syntheses = ask_questions(queries, syntheses, reasoner, prompts, reading)
        with context.role("verifier") as verifier:
            verifications, rankings = verify(
                queries, syntheses, rankings, files, verifier, options.top_k, reading
            )
        both = zip(syntheses, verifications, strict=True)
        yield Outcome("stage2", rankings, [{"synthesis": s, "verification": v} for s, v in both])
        if len(self.stages) == 2:
            return

        with context.role("evaluator") as evaluator:
            evaluations, rankings = evaluate(
                *(queries, rankings, files, evaluator, prompts["evaluation"]),
                *(options.alpha, reading, options.speculative),
            )
        yield Outcome("stage3", rankings, [{"evaluation": e} for e in evaluations])
