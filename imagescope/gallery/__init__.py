"""A gallery's captions and vectors on disk."""
