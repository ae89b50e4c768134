"""ImageScope: training-free image retrieval by composed queries, text and dialogue.

The method of arXiv 2503.10166 (WWW 2025). `docs/` and the README say how it is built and used;
importing this package loads nothing heavy.
"""

__version__ = "0.1.0"

__all__ = ["ImageScope"]


def __getattr__(name: str) -> object:
    """`from imagescope import ImageScope`, without loading it for those who don't ask."""
    if name == "ImageScope":
        from imagescope.own.scope import ImageScope

        return ImageScope
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
