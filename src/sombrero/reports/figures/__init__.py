"""Still pictures of a run, for papers and slides: PNG, SVG and their numbers."""

from sombrero.reports.figures.write import FIGURES, write_figures

__all__ = ["FIGURES", "write_figures"]
