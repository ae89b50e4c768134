"""Figures quoted from the paper (arXiv 2503.10166), in percent, and when to show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagescope import benchmarks

# checkpoint -> what the paper calls it; starred rows use OpenAI's weights
ENCODERS = {
    "clip-vit-l-14-laion2b-s32b-b82k": "ViT-L/14",
    "clip-vit-b-32-laion2b-s34b-b79k": "ViT-B/32",
    "clip-vit-large-patch14": "ViT-L/14*",
    "clip-vit-base-patch32": "ViT-B/32*",
}
METRICS = {
    "CIRCO": ("mAP@5", "mAP@10", "mAP@25", "mAP@50"),
    "CIRR": ("Recall@1", "Recall@5", "Recall@10", "Recall@50"),
    "CIRR subset": ("Recall_subset@1", "Recall_subset@2", "Recall_subset@3"),
    "FashionIQ": ("Recall@10", "Recall@50"),  # the average of the categories
    "Flickr30K": ("Recall@1", "Recall@5", "Recall@10"),
    "MSCOCO": ("Recall@1", "Recall@5", "Recall@10"),
}
SPLITS = {
    "CIRCO": "test",
    "CIRR": "test",
    "FashionIQ": "val",
    "Flickr30K": "test",
    "MSCOCO": "test",
}
# (method, encoder) -> benchmark -> figures in the order of METRICS
FIGURES: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    ("ImageScope", "ViT-L/14"): {
        "CIRCO": (28.36, 29.23, 30.81, 31.88),
        "CIRR": (39.37, 67.54, 78.05, 92.94),
        "CIRR subset": (76.36, 89.40, 95.21),
        "FashionIQ": (31.36, 50.78),
        "Flickr30K": (81.10, 94.02, 96.82),
        "MSCOCO": (53.73, 75.96, 83.50),
    },
    ("ImageScope", "ViT-L/14*"): {
        "CIRCO": (25.39, 25.82, 27.07, 27.98),
        "CIRR": (34.99, 61.35, 71.49, 88.84),
        "CIRR subset": (74.94, 88.24, 94.00),
        "FashionIQ": (25.54, 41.22),
    },
    ("ImageScope", "ViT-B/32"): {
        "CIRCO": (25.26, 25.82, 27.15, 28.11),
        "CIRR": (38.43, 66.27, 76.96, 91.83),
        "CIRR subset": (75.93, 89.21, 94.63),
        "FashionIQ": (31.42, 50.80),
        "Flickr30K": (78.84, 92.66, 95.64),
        "MSCOCO": (51.23, 73.32, 80.79),
    },
    ("ImageScope", "ViT-B/32*"): {
        "CIRCO": (22.36, 22.19, 23.03, 23.83),
        "CIRR": (34.36, 60.58, 71.40, 88.41),
        "CIRR subset": (74.63, 87.93, 93.83),
        "FashionIQ": (22.42, 38.03),
    },
    ("CIReVL", "ViT-L/14"): {
        "CIRCO": (18.57, 19.01, 20.89, 21.80),
        "CIRR": (24.55, 52.31, 64.92, 86.34),
        "CIRR subset": (59.54, 79.88, 89.69),
        "FashionIQ": (28.55, 48.57),
    },
    ("LDRE", "ViT-L/14"): {
        "CIRCO": (23.35, 24.03, 26.44, 27.50),
        "CIRR": (26.53, 55.57, 67.54, 88.50),
        "CIRR subset": (60.43, 80.31, 89.90),
        "FashionIQ": (28.51, 50.54),
    },
    ("CLIP alone", "ViT-L/14"): {
        "Flickr30K": (75.72, 92.96, 96.00),
        "MSCOCO": (46.46, 71.10, 79.78),
    },
    ("CLIP alone", "ViT-B/32"): {
        "Flickr30K": (66.56, 88.16, 93.02),
        "MSCOCO": (39.45, 65.51, 75.65),
    },
}


def is_papers(manifest: Mapping[str, Any]) -> bool:
    """Whether a run's gallery, queries, split, protocol and encoder are the paper's."""
    config, benchmark = manifest.get("config") or {}, manifest.get("benchmark") or {}
    name = str(config.get("dataset"))
    if name not in benchmarks.NAMES or SPLITS.get(family(name)) != config.get("split"):
        return False
    counts = benchmarks.spec(name).splits[config["split"]]
    return (
        (benchmark.get("queries"), benchmark.get("gallery")) == counts
        and config.get("protocol") == "paper"
        and not config.get("exclude_reference")
        and not config.get("shared_concept")
        and encoder(manifest) is not None
    )


def family(name: str) -> str:
    """FashionIQ's categories are one benchmark to the paper."""
    return name.partition("-")[0]


def encoder(manifest: Mapping[str, Any]) -> str | None:
    """The paper's name of a run's encoder, None for one that the paper does not use."""
    models = (manifest.get("config") or {}).get("models") or {}
    model = str((models.get("encoder") or {}).get("model", ""))
    return ENCODERS.get(Path(model).name.lower())


def quoted(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Method -> metric -> figure, for runs that are all in the paper's place and use one encoder.

    FashionIQ's figures are the average of its categories: for manifests of all three.
    """
    encoders = {encoder(manifest) for manifest in manifests}
    names = {manifest["config"]["dataset"] for manifest in manifests if is_papers(manifest)}
    families = {family(name) for name in names}
    if len(encoders) != 1 or len(families) != 1 or not all(map(is_papers, manifests)):
        return {}
    (name,), (used,) = families, encoders
    if name == "FashionIQ" and len(names) < 3:
        return {}
    benchmark = name + " subset" * bool(manifests[0]["config"].get("subset"))
    return {
        method: dict(zip(METRICS[benchmark], figures[benchmark], strict=True))
        for (method, theirs), figures in FIGURES.items()
        if theirs == used and benchmark in figures
    }


def paper_figures(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """ImageScope's own figures beside one run: {"figures": {metric: percent}, "source": text}."""
    figures = quoted([manifest]).get("ImageScope")
    return {"figures": figures, "source": "quoted from arXiv 2503.10166"} if figures else None
