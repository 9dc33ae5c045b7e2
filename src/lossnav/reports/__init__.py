"""What a picture can and cannot say: checks of a surface, of its directions, its centre and its path."""

from lossnav.reports.findings import Finding, Report
from lossnav.reports.report import report

__all__ = ["Finding", "Report", "report"]
