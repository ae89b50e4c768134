"""Hostile model text, made from a seed: nothing raises, nothing is slow, nothing is lost silently.

Minutes, not seconds: `pytest -m slow tests/methods/test_fuzz.py`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from threading import Lock

import pytest
from fakes import Endpoint, Handler
from test_stages import FILES, PROMPTS, role

from imagescope.cli.app import main
from imagescope.config import ROLES
from imagescope.engines.base import Request, Response
from imagescope.engines.text import SILENT, harmless, received
from imagescope.methods.evaluation import evaluate
from imagescope.methods.parsing import (
    accepts,
    parse_questions,
    parse_synthesis,
    says_yes,
    understood,
)
from imagescope.methods.synthesis import ask_questions, synthesise
from imagescope.methods.verification import verify
from imagescope.records import Query, Question, Ranking, Synthesis
from imagescope.runs.folder import read_traces

OUTPUTS = 20_000
SLOW = 0.1  # seconds of processor time that no text may cost a reader
SOUND = json.dumps({"step1": [["Addition", "a dog"]], "step2": ["a dog on a beach"]})
PIECES = [
    *("{", "}", "[", "]", '"', "'", ",", ":", "\\", "(", ")", "/*", "*/", "//", "#", "\n", " "),
    *("```", "```json\n", "~~~", "<think>", "</think>", "<|channel|>", "<|message|>", "[THINK]"),
    *('"step1":', '"step2":', '{"step2": [', '["Addition", "x"]', '["Is it?", "True"]', "True"),
    *(
        "yes",
        "no",
        "ANSWER:",
        "answer is ",
        "not ",
        "ＡＮＳＷＥＲ：",
        "是",
        "…",
        "“",
        "”",
        "a",
        "0",
    ),
    *(
        "\x00",
        "\ud800",
        "\u202e",
        "\u2028",
        "\ufdfa",
        "😀",
        "&lt;think&gt;",
        "1e999",
        "null",
        SOUND,
    ),
]


def hostile(rng: Random) -> str:
    """Pieces at random, a few of them over and over, or a sound answer with damage."""
    kind = rng.random()
    if kind < 0.5:
        return "".join(rng.choices(PIECES, k=rng.randrange(40)))
    if kind < 0.75:
        text = list(SOUND)
        for _ in range(rng.randrange(1, 8)):
            text[rng.randrange(len(text))] = rng.choice(PIECES)
        return "".join(text)[: rng.randrange(200)]
    unit = "".join(rng.choices(PIECES, k=rng.randrange(1, 6)))
    head, length = (
        "".join(rng.choices(PIECES, k=rng.randrange(4))),
        rng.choice((500, 8_000, 60_000)),
    )
    return head + (unit * (length // len(unit) + 1))[:length]


def timed(read: Callable[[str], object], text: str) -> float:
    """Seconds of processor time that reading takes."""
    start = time.process_time()
    read(text)
    return time.process_time() - start


@pytest.mark.slow
def test_no_output_raises_or_is_slow() -> None:
    rng = Random(1)
    readers: list[Callable[[str], object]] = [
        lambda text: parse_synthesis(text, "instruction", "caption"),
        lambda text: parse_synthesis(text, "instruction", "caption", "paper"),
        parse_questions,
        says_yes,
        accepts,
    ]
    slow = []
    for _ in range(OUTPUTS):
        text = hostile(rng)
        for read in readers:
            if timed(read, text) > SLOW and min(timed(read, text) for _ in range(3)) > SLOW:
                slow.append((text[:80], len(text)))  # (the first time may be the machine's fault)
        edits, descriptions, how = parse_synthesis(text, "instruction", "caption")
        assert edits and all(descriptions)
        lost = descriptions == ("caption",)
        assert not lost or not understood(how)
        questions, how = parse_questions(text)
        assert bool(questions) is understood(how)
        json.dumps([edits[0].text, *descriptions]).encode()
        harmless(text).encode()
    assert not slow


@pytest.mark.slow
def test_a_run_on_hostile_answers_loses_nothing() -> None:
    rng = Random(2)

    def answer(_: Request) -> Response:
        return received(Response(hostile(rng)[:4000] if rng.random() < 0.8 else SOUND))

    queries = [Query(str(n), "make it red", reference="a") for n in range(60)]
    queries += [Query("d", "a dog", verbatim=True), *(Query("d", "q?", turn=t) for t in (1, 2))]
    reasoner, _ = role(answer)
    syntheses = synthesise(queries, {"a": "a beach"}, reasoner, PROMPTS)
    syntheses = ask_questions(queries, syntheses, reasoner, PROMPTS)
    for name, hows in (
        ("synthesis", [s.parse for s in syntheses]),
        ("questions", [s.questions_parse for s in syntheses]),
    ):
        step = reasoner.steps[name]
        assert step.unread + step.errors == sum(not understood(how) for how in hows)
    rankings = [Ranking(tuple("abcdefgh"), pool=8) for _ in queries]
    asked = [s if s.questions else with_question(s) for s in syntheses]
    verifier, _ = role(answer)
    verifications, verified = verify(queries, asked, rankings, FILES, verifier, 4)
    cells = {
        (v.candidates[i], s.questions[j].text)
        for s, v in zip(asked, verifications, strict=True)
        if v is not None
        for i, j, _ in v.unread
    }
    assert verifier.steps["verification"].unread == len(cells)
    evaluator, _ = role(answer)
    evaluations, judged = evaluate(queries, rankings, FILES, evaluator, "[[INSTRUCTION]]?", 3)
    unread = sum(j.unread for e in evaluations if e for j in e.judgements)
    assert evaluator.steps["evaluation"].unread == unread > 0
    assert all(sorted(after.names) == list("abcdefgh") for after in [*verified, *judged])


def with_question(synthesis: Synthesis) -> Synthesis:
    return replace(synthesis, questions=(Question("Is it?", True),))


@pytest.mark.slow
def test_a_run_of_the_command_line_on_hostile_answers(tmp_path: Path, tiny_data: Path) -> None:
    """Every language role is an endpoint that says anything."""
    rng, lock = Random(3), Lock()

    def anything(handler: Handler) -> None:
        with lock:
            text = hostile(rng)[:4000]
        handler.answer(**({} if len(text) % 4 == 0 else {"content": text}))

    with Endpoint(anything) as fake:
        role = {"model": "m", "engine": "openai", "base_url": fake.url}
        encoder = {"model": str(tiny_data / "models" / "encoder")}
        models = tmp_path / "models.json"
        models.write_text(
            json.dumps({**dict.fromkeys(ROLES, role), "encoder": encoder, "prompts": "tiny"})
        )
        places = ("runs", "image-db", "cache")
        line = ["run", "CIRR", "--split", "val", "--quiet", "--data-root", str(tiny_data)]
        line += ["--limit", "200", "--top-k", "6", "--fail-on-error", "1", "--models", str(models)]
        for place in places:
            line += [f"--{place}", str(tmp_path / place)]
        assert main(line) == 0
    (folder,) = (tmp_path / "runs").glob("CIRR/default/*")
    manifest = json.loads((folder / "manifest.json").read_text())
    steps, traces = manifest["steps"], read_traces(folder)
    assert manifest["status"].startswith("finished") and len(traces) == 200
    assert (folder / "index.html").is_file()
    for name, hows in (
        ("synthesis", [trace.synthesis.parse for trace in traces]),
        ("questions", [trace.synthesis.questions_parse for trace in traces]),
    ):
        # (a request that two queries share is asked, and an error counted, once)
        lost = [how for how in hows if not understood(how)]
        silent = [how for how in lost if SILENT in how]
        assert steps[name]["unread"] == len(lost) - len(silent) > 0
        assert bool(silent) == bool(steps[name]["errors"]) and steps[name]["errors"] <= len(silent)
    assert steps["verification"]["unread"] > 0
    unread = sum(
        j.unread for trace in traces if trace.evaluation for j in trace.evaluation.judgements
    )
    assert steps["evaluation"]["unread"] == unread > 0
    for step in ("captions", "synthesis", "questions", "verification", "evaluation"):
        counts = steps[step]
        assert counts["wanted"] == counts["asked"] + counts["duplicates"] + counts["cached"]
