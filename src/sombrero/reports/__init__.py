"""Figures and the HTML page that tell what a run found."""

from sombrero.reports.page import write_report

__all__ = ["write_report"]
