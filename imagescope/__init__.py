"""ImageScope: training-free image retrieval by composed queries, text and dialogue.

The method of arXiv 2503.10166 (WWW 2025). `docs/` and the README say how it is built and used;
importing this package loads nothing heavy.
"""

__version__ = "0.1.0"
