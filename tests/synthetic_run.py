"""A run folder as the pipeline leaves it, made of records and drawn scenes: no model is asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random

from imagescope.methods.ranking import reorder
from imagescope.records import (
    Edit,
    Estimate,
    Evaluation,
    Judgement,
    Query,
    Question,
    Ranking,
    Synthesis,
    Trace,
    Verification,
)
from imagescope.runs.folder import to_json
from imagescope_tiny.scenes import draw, random_scene

KEEP, TOP_K, ALPHA = 40, 20, 3
HOSTILE = '</script><img src=x onerror="window.hacked=1"> "quoted" & \u2028 {{ 7*7 }}'


def draw_images(folder: Path, count: int, seed: int = 0) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(seed)
    files = {}
    for i in range(count):
        name = f"scene-{i:04}.jpg"
        draw(random_scene(rng), 96, i).save(folder / name)
        files[name] = folder / name
    return files


def _trace(rng: Random, query: Query, gallery: list[str], start: float, parse: str) -> Trace:
    """A trace whose target stands about `start` ranks down and is reordered at random."""
    target = query.targets[0] if query.targets else rng.choice(gallery)
    place = min(int(rng.expovariate(1 / start)), len(gallery) - 1)
    names = [n for n in rng.sample(gallery, min(KEEP + 1, len(gallery))) if n != target]
    if place < KEEP:
        names.insert(place, target)
    names = names[:KEEP]
    ranks = {target: place} if query.targets else {}
    scores = tuple(round(0.4 - 0.005 * i, 4) for i in range(len(names)))
    first = Ranking(tuple(names), scores, ranks, len(gallery))
    if query.verbatim:
        synthesis = Synthesis("", (), (query.instruction,))
        rankings = {"stage1": first, "stage2": first, "stage3": first}
        return Trace(query, synthesis, rankings)
    questions = (
        Question("Is there a small red circle in the top left?", True),
        Question("Is the background grey?", True),
        Question("Is there a green square?", False),
    )
    synthesis = Synthesis(
        reference_description="a small red circle at the top left, a green square below; grey",
        edits=(Edit("Removal", "remove the green square"), Edit("Retention", "keep the circle")),
        descriptions=("a small red circle on grey", "only a red circle", "a red dot, grey behind"),
        questions=questions,
        text='```json\n{"step1": [["Removal", "remove the green square"]]}\n```',
        questions_text='{"step2": [["Is the background grey?", "True"]]}',
        parse=parse,
    )
    head = names[:TOP_K]
    yes, answers, marks = [], [], []
    for name in head:
        wanted = 0.85 if name == target else 0.45
        row = [rng.betavariate(4 * wanted, 4 * (1 - wanted)) for _ in questions]
        row = [p if q.expected else 1 - p for p, q in zip(row, questions, strict=True)]
        yes.append(tuple(round(p, 4) for p in row))
        answers.append(tuple(p > 0.5 for p in row))
        marks.append(sum((p > 0.5) is q.expected for p, q in zip(row, questions, strict=True)))
    verification = Verification(tuple(head), tuple(yes), tuple(answers), tuple(marks))
    second = reorder(first, [head[i] for i in sorted(range(len(head)), key=lambda i: -marks[i])])
    judged = []
    for name in second.names[:ALPHA]:
        accepted = rng.random() < (0.8 if name == target else 0.15)
        verdict = "Yes" if accepted else "No"
        judged.append(
            Judgement(name, accepted, f"ANSWER: {verdict}\nthe square is gone: {verdict}")
        )
        if accepted:
            break
    third = second
    if judged[-1].accepted:
        third = reorder(second, [judged[-1].candidate, *(j.candidate for j in judged[:-1])])
    rankings = {"stage1": first, "stage2": second, "stage3": third}
    return Trace(query, synthesis, rankings, verification, Evaluation(tuple(judged)))


def make_traces(
    kind: str, gallery: list[str], count: int, seed: int = 0, hostile: bool = True
) -> list[Trace]:
    """kind: composed, text, hidden (composed, targets unknown) or dialogue (count x 11 rounds)."""
    rng = Random(seed)
    traces = []
    for i in range(count):
        target = rng.choice(gallery)
        reference = rng.choice(gallery) if kind in ("composed", "hidden") else None
        targets = None if kind == "hidden" else (target,)
        for turn in range(11 if kind == "dialogue" else 1):
            text = f"remove the green square and keep the small red circle ({i})"
            if kind == "dialogue":
                text = f"is there a square? {rng.choice(('yes', 'no'))}" if turn else "a red circle"
            if hostile and i == 3 and turn == 0:
                text = HOSTILE
            query = Query(str(1000 + i), text, turn, reference, targets,
                          verbatim=kind == "dialogue" and turn == 0)  # fmt: skip
            parse = {1: "fallback: no JSON", 2: "repaired"}.get(i % 9, "ok")
            traces.append(_trace(rng, query, gallery, 9 * 0.8**turn, parse))
    return traces


def _estimate(hits: list[bool]) -> Estimate:
    share = sum(hits) / max(1, len(hits))
    half = 196 * math.sqrt(share * (1 - share) / max(1, len(hits)))
    return Estimate(100 * share, max(0, 100 * share - half), min(100, 100 * share + half))


def make_metrics(kind: str, traces: list[Trace]) -> dict:
    if kind == "hidden":
        return {"stage1": {}, "stage2": {}, "stage3": {}, "why": "hidden"}
    found: dict = {}
    for stage in ("stage1", "stage2", "stage3"):
        ranks = [(t.query.turn, t.rankings[stage].ranks[t.query.targets[0]]) for t in traces]
        if kind == "dialogue":
            rounds = {
                f"Hits@10/{r}": _estimate([k < 10 for turn, k in ranks if turn == r])
                for r in range(11)
            }
            found[stage] = {**rounds, "BRI": Estimate(1.21, 1.1, 1.33)}
        else:
            found[stage] = {
                f"Recall@{k}": _estimate([r < k for _, r in ranks]) for k in (1, 5, 10, 50)
            }
    return found


def make_manifest(kind: str, images: int) -> dict:
    def role(name: str) -> dict:
        return {"model": f"data/tiny/models/{name}", "dtype": "auto", "engine": None}

    dataset = "VisDial" if kind == "dialogue" else "CIRR"
    roles = ("captioner", "reasoner", "verifier", "evaluator", "encoder")
    step = {"wanted": 1200, "duplicates": 300, "cached": 200, "asked": 700, "errors": 0,
            "prompt_tokens": 48210, "output_tokens": 20991, "seconds": 12.4,
            "model_seconds": 11.0, "load_seconds": 0.8}  # fmt: skip
    return {
        "format": 1,
        "status": "finished",
        "started": "2026-11-21T12:00:00+00:00",
        "seconds": 93.2,
        "git": "32abced+",
        "seed": 0,
        "config": {
            "dataset": dataset,
            "split": "test" if kind == "hidden" else "val",
            "data_root": "data/tiny",
            "protocol": "paper",
            "models_name": "tiny",
            "prompts": "tiny",
            "run_name": "default",
            "tau": 0.15,
            "top_k": TOP_K,
            "alpha": ALPHA,
            "stages": ["s1", "s2", "s3"],
            "models": {name: role(name) for name in roles},
        },
        "benchmark": {"gallery": images, "missing": {"queries without reference": 1}},
        "models": {name: {"model": f"data/tiny/models/{name}", "engine": "vllm"} for name in roles},
        "steps": {
            name: {**step, "seconds": seconds}
            for name, seconds in (
                *(("captions", 9.5), ("synthesis", 22.1), ("questions", 8.0), ("embedding", 3.2)),
                *(("retrieval", 0.3), ("verification", 31.5), ("evaluation", 17.0)),
            )
        },
        "fallbacks": {"synthesis fallback: no JSON": 7, "synthesis repaired": 6},
    }


def make_run(
    folder: Path,
    kind: str = "composed",
    queries: int = 60,
    gallery: list[str] | None = None,
    seed: int = 0,
    hostile: bool = True,
) -> Path:
    """Writes traces.jsonl, metrics.json and manifest.json; returns the folder."""
    gallery = gallery or [f"scene-{i:04}.jpg" for i in range(200)]
    folder.mkdir(parents=True, exist_ok=True)
    traces = make_traces(kind, gallery, queries, seed, hostile)
    lines = (json.dumps(to_json(t), ensure_ascii=False) for t in traces)
    (folder / "traces.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    metrics = to_json(make_metrics(kind, traces))
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    manifest = make_manifest(kind, len(gallery))
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder
