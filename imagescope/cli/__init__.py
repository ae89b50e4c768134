"""The command line: parse, call, print. What commands do lies in the rooms they call."""

from imagescope.cli.app import main

__all__ = ["main"]
