"""The page of a run: `write_report` for one, `write_comparison` for two side by side."""

from imagescope.report.build import write_report
from imagescope.report.compare import write_comparison

__all__ = ["write_comparison", "write_report"]
