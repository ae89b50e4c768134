"""Where a checkpoint is, what this machine computes with, and what a picture is."""
