"""CIRR, CIRCO and FashionIQ in small: an image, an instruction, and the one scene it leads to."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from imagescope_tiny.changes import LOOK, Change, clause, instruction
from imagescope_tiny.families import Step, families
from imagescope_tiny.language import claim_of, phrase
from imagescope_tiny.scenes import Scene, draw

CIRR_SETS = {"val": ("dev", 100), "test1": ("test1", 20)}  # of six images, four queries each
CIRR_SET, CIRR_QUERIES = 6, 4
CIRCO_FAMILIES, CIRCO_QUERIES = 60, {"val": 100, "test": 50}
CIRCO_FAMILY, CIRCO_MOST = 4, 4  # scenes of a family, pictures of one scene at most
FASHION_FAMILIES, FASHION_FAMILY, FASHION_QUERIES = 40, 4, 60
CATEGORIES = ("dress", "shirt", "toptee")
NOTHING = "[cr0] Nothing worth mentioning"
# CIRCO's names for what an instruction does.
ASPECTS = {
    "add": "addition",
    "remove": "negation",
    "keep": "statement_with_conjunction",
    "scale": "comparative_statement",
    "cell": "viewpoint",
    "background": "spatial_relations_background",
}


def write_cirr(root: Path, rng: Random) -> None:
    for folder in ("captions", "captions_ext", "image_splits"):
        (root / folder).mkdir()
    pairid = 12060
    for split, (folder, count) in CIRR_SETS.items():
        (root / folder).mkdir()
        images: dict[str, str] = {}
        queries, extended = [], []
        for number, (scenes, steps) in enumerate(families(rng, count, CIRR_SET)):
            first = CIRR_SET * number
            names = [f"{folder}-{first + i}-{i // 2}-img{i % 2}" for i in range(CIRR_SET)]
            for name, scene in zip(names, scenes, strict=True):
                images[name] = f"./{folder}/{name}.png"
                draw(scene).save(root / images[name])
            members = rng.sample(names, len(names))
            for step in rng.sample(steps, CIRR_QUERIES):
                query, more = _cirr_query(pairid, number, names, members, step, scenes, rng)
                if split == "test1":
                    del query["target_hard"], query["target_soft"], more["target_hard"]
                    del query["img_set"]["target_rank"]
                queries.append(query)
                extended.append(more)
                pairid += 1
        _write(root / "captions" / f"cap.rc2.{split}.json", queries)
        _write(root / "captions_ext" / f"cap.ext.rc2.{split}.json", extended)
        shuffled = dict(rng.sample(sorted(images.items()), len(images)))
        _write(root / "image_splits" / f"split.rc2.{split}.json", shuffled)


def _cirr_query(
    pairid: int, number: int, names: list[str], members: list[str], step: Step,
    scenes: list[Scene], rng: Random,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    reference, target = names[step.reference], names[step.target]
    query = {
        "pairid": pairid,
        "reference": reference,
        "target_hard": target,
        "target_soft": {target: 1.0},
        "caption": instruction(step.changes, rng),
        "img_set": {
            "id": number,
            "members": members,
            "reference_rank": members.index(reference),
            "target_rank": members.index(target),
        },
    }
    subject = ", ".join(thing.shape for thing in scenes[step.reference].things)
    more = {
        "pairid": pairid,
        "reference": reference,
        "target_hard": target,
        "caption_extend": {
            "0": f"being a picture of {subject}",
            "1": clause(step.changes[0], rng),
            "2": NOTHING,
            "3": f"background is {scenes[step.target].background}",
        },
    }
    return query, more


def write_circo(root: Path, rng: Random) -> None:
    """Several pictures of one scene, a little shifted, are each other's further ground truths."""
    (root / "annotations").mkdir()
    (root / "unlabeled2017").mkdir()
    pictures: dict[Scene, list[int]] = {}
    candidates: list[tuple[Scene, Scene, Step]] = []
    ids = iter(rng.sample(range(1000, 580_000), CIRCO_FAMILIES * CIRCO_FAMILY * CIRCO_MOST))
    for scenes, steps in families(rng, CIRCO_FAMILIES, CIRCO_FAMILY):
        candidates += [(scenes[s.reference], scenes[s.target], s) for s in steps]
        for scene in scenes:
            pictures[scene] = [next(ids) for _ in range(rng.randint(1, CIRCO_MOST))]
            for seed, image_id in enumerate(pictures[scene]):
                draw(scene, seed=seed).save(root / _unlabeled(image_id), quality=95)
    rng.shuffle(candidates)
    used = 0
    for split, count in CIRCO_QUERIES.items():
        queries = []
        for i, (reference, target, step) in enumerate(candidates[used : used + count]):
            used += 1
            truths = rng.sample(pictures[target], len(pictures[target]))
            query = {
                "reference_img_id": rng.choice(pictures[reference]),
                "target_img_id": truths[0],
                "relative_caption": instruction(step.changes, rng),
                "shared_concept": phrase(claim_of(rng.choice(reference.things), LOOK)),
                "gt_img_ids": truths,
                "id": i,
                "semantic_aspects": _aspects(step.changes),
            }
            if split == "test":
                for hidden in ("target_img_id", "gt_img_ids", "semantic_aspects"):
                    del query[hidden]
            queries.append(query)
        _write(root / "annotations" / f"{split}.json", queries)


def _unlabeled(image_id: int) -> str:
    return f"unlabeled2017/{image_id:012}.jpg"


def _aspects(changes: tuple[Change, ...]) -> list[str]:
    aspects = {ASPECTS.get(change.kind, "compare_change") for change in changes}
    if len(changes) > 1:
        aspects.add("statement_with_conjunction")
    return sorted(aspects)


def write_fashioniq(root: Path, rng: Random) -> None:
    """Two captions a query: a clause each of an instruction of two edits."""
    for folder in ("captions", "image_splits", "images"):
        (root / folder).mkdir()
    taken: set[str] = set()
    for category in CATEGORIES:
        images, queries = [], []
        for scenes, steps in families(rng, FASHION_FAMILIES, FASHION_FAMILY, edits=2):
            names = [_asin(rng, taken) for _ in scenes]
            for name, scene in zip(names, scenes, strict=True):
                draw(scene).save(root / "images" / f"{name}.png")
            images += names
            for step in steps:
                captions = [clause(change, rng) + rng.choice(("", ".")) for change in step.changes]
                queries.append(
                    {
                        "target": names[step.target],
                        "candidate": names[step.reference],
                        "captions": captions,
                    }
                )
        queries = rng.sample(queries, FASHION_QUERIES)
        _write(root / "captions" / f"cap.{category}.val.json", queries)
        rng.shuffle(images)
        _write(root / "image_splits" / f"split.{category}.val.json", images)


def _asin(rng: Random, taken: set[str]) -> str:
    """A new name as the shop gives them: B0 and eight letters or digits."""
    while True:
        name = "B0" + "".join(rng.choices("0123456789ABCDEFGHJKLMNPQRSTUVWXYZ", k=8))
        if name not in taken:
            taken.add(name)
            return name


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
