"""The report of one run or several side by side: report.html, self-contained, and report.md with the same figures."""

from launcher.report.write import write_report

__all__ = ["write_report"]
