"""Figures and the HTML page that tell what a run found."""
