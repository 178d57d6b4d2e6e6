"""Figures and the HTML page that tell what a run found."""

from sombrero.reports.comparison_page import write_comparison
from sombrero.reports.figures import write_figures
from sombrero.reports.measurement_page import write_measurement
from sombrero.reports.page import write_report

__all__ = ["write_comparison", "write_figures", "write_measurement", "write_report"]
