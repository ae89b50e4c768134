"""Which weights an encoder has: figures of one family say little about another's."""

from __future__ import annotations

import re

# in a checkpoint's name -> family, the first that fits
FAMILIES = {
    r"bge-vl": "bge-vl",
    r"siglip-?2": "siglip2",
    r"siglip": "siglip",
    r"metaclip": "metaclip",
    r"laion-?2b": "openclip/laion2b",
    r"laion-?400m": "openclip/laion400m",
    r"datacomp": "openclip/datacomp",
    r"dfn": "openclip/dfn",
    r"\bopenai\b|^clip-vit-(base|large)-patch\d+(-336)?$": "openai",
}


def family(model: str) -> str | None:
    """The family and training set that a checkpoint's id or folder names, None where unknown:
    openai, openclip/laion2b, siglip2 …"""
    name = model.lower().rstrip("/").rpartition("/")[2]
    return next((label for pattern, label in FAMILIES.items() if re.search(pattern, name)), None)
