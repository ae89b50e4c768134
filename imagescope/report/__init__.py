"""What is shown: the page of a run (build.py), of two (compare.py), findings, tables."""
