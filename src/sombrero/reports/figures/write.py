"""The figures of a run as files: ``figures/NAME.png``, ``.svg`` and ``.csv``, and a page that lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sombrero.reports.figures.canvas import Picture, csv_bytes, drawing_style, png_bytes, svg_bytes
from sombrero.reports.figures.controls import draw_controls
from sombrero.reports.figures.cosine_matrix import draw_cosines
from sombrero.reports.figures.curves import draw_curves
from sombrero.reports.figures.grid_size import draw_grid_size
from sombrero.reports.figures.manifold import draw_manifold
from sombrero.reports.figures.map_sheet import draw_hit_map, draw_planes
from sombrero.reports.figures.strip import draw_strip
from sombrero.reports.run_files import RunFiles, read_run, what_is_missing
from sombrero.reports.writing import remove, write

FOLDER, INDEX = "figures", "README.md"


@dataclass(frozen=True)
class Figure:
    """One figure: its file name, what it shows, which records it cannot do without, and how it is drawn."""

    name: str
    shows: str
    needs: tuple[str, ...]
    draw: Callable[[RunFiles], Picture]


_MAP = ("refusal_map", "som", "single")
FIGURES = (
    Figure("map", "the hits of every unit, and the distances between units (U-matrix)", _MAP, draw_hit_map),
    Figure("planes", "AUROC, refusal log-odds and main category of every unit", _MAP, draw_planes),
    Figure("layers", "the map at every state index", _MAP, draw_strip),
    Figure("manifold", "harmful and harmless states and the map in one plane", (*_MAP, "manifold"), draw_manifold),
    Figure("curves", "AUROC, distances, effective rank and topographic error over the layers", _MAP, draw_curves),
    Figure("grid-size", "how many units the samples support", (*_MAP, "quality"), draw_grid_size),
    Figure("cosines", "cosines between the directions of the map and of the controls", _MAP, draw_cosines),
    Figure("controls", "how well the directions of each method separate", (*_MAP, "controls"), draw_controls),
)


def write_figures(run_folder: Path) -> tuple[Path, ...]:
    """Draw what the run's files hold: each figure as PNG and SVG, with its numbers as CSV. Returns the paths.

    A figure whose record the run does not have is left out, and one that an earlier call left there is removed;
    ``figures/README.md`` names it and says what is missing. The same files give the same bytes.

    Raises RunError when there is no run, a record is damaged, or nothing can be written.
    """
    run = read_run(run_folder)
    folder = run_folder / FOLDER
    written: list[Path] = []
    lines = ["# Figures", "", "Each as PNG and SVG; the numbers in it as CSV.", ""]
    for figure in FIGURES:
        files = {suffix: folder / f"{figure.name}.{suffix}" for suffix in ("png", "svg", "csv")}
        missing = what_is_missing(run, figure.needs)
        if missing is not None:
            lines.append(f"- `{figure.name}`: {figure.shows}. Left out: {missing}.")
            remove(files.values())
            continue
        with drawing_style():
            picture = figure.draw(run)
            drawn = {"png": png_bytes(picture.figure), "svg": svg_bytes(picture.figure), "csv": csv_bytes(picture)}
        for suffix, path in files.items():
            write(path, drawn[suffix])
        written += files.values()
        lines.append(f"- [{figure.name}]({figure.name}.png): {figure.shows}.")
    write(folder / INDEX, ("\n".join(lines) + "\n").encode())
    return (*written, folder / INDEX)
