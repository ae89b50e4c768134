"""Tiny scenes that no checkpoint was trained on, for the benchmarks of searching."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tiny"))
from imagescope_tiny.changes import instruction, random_changes
from imagescope_tiny.language import caption
from imagescope_tiny.scenes import Scene, draw, random_scene


def draw_scenes(folder: Path, count: int) -> list[Scene]:
    """Draws so many distinct scenes into a folder, as 00000.png and so on; the same each time."""
    rng, scenes = Random(5), dict[str, Scene]()
    while len(scenes) < count:
        scene = random_scene(rng, "benchmark")
        scenes.setdefault(caption(scene), scene)
    if not folder.exists():
        folder.mkdir(parents=True)
        for number, scene in enumerate(scenes.values()):
            draw(scene, 128).save(folder / f"{number:05d}.png")
    return list(scenes.values())


def composed(scenes: list[Scene], count: int, seed: int) -> list[tuple[str, str]]:
    """(reference's file name, instruction) of so many composed queries."""
    rng = Random(seed)
    queries = []
    for number in rng.sample(range(len(scenes)), count):
        changes, _ = random_changes(scenes[number], rng, 1, "benchmark")
        queries.append((f"{number:05d}.png", instruction(changes, rng)))
    return queries
