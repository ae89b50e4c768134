"""A method, an encoder, an engine and a benchmark, each in its file (docs/extending.md)."""
