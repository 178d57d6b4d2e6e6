"""What a verb found, as a record that a notebook shows as a table, with pictures where there are any."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from sombrero.safe_text import printable

Draw = Callable[[Console, dict[str, Any]], None]
WIDTH = 110
"""Columns of a table's text; the command line takes the terminal's."""
FORMAT = '<pre style="line-height:1.25;white-space:pre-wrap">{code}</pre>'
KINDS = {".svg": "image/svg+xml", ".png": "image/png"}


@dataclass(frozen=True, repr=False)
class Result(Mapping[str, Any]):
    """The figures that a verb returned, read like a dictionary; ``print`` and notebooks show them as the terminal does.

    figures: what the verb of the same name in ``sombrero.verbs`` returns, and what ``--json`` prints (docs/formats.md).
    draw: writes them to a console. pictures: image files (SVG, PNG) that a notebook shows below the table, as they are
    when it is shown.
    """

    figures: Mapping[str, Any]
    draw: Draw
    pictures: tuple[Path, ...] = ()

    def __getitem__(self, key: str) -> Any:
        return self.figures[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def __repr__(self) -> str:
        console = _console()
        self.draw(console, dict(self.figures))
        return console.export_text(styles=False).rstrip()

    def _repr_html_(self) -> str:
        console = _console()
        self.draw(console, dict(self.figures))
        table = console.export_html(inline_styles=True, code_format=FORMAT)
        return "\n".join([table, *map(_embedded, self.pictures)])


def _console() -> Console:
    return Console(record=True, file=StringIO(), width=WIDTH, force_jupyter=False, force_terminal=True)


def _embedded(picture: Path) -> str:
    """The picture inside the page, so that a saved notebook keeps it; or a line that says which one is missing."""
    name = html.escape(printable(picture.name))
    if not picture.is_file():
        return f"<p>There is no picture {name}: the run's figures/README.md says what is missing.</p>"
    content = base64.b64encode(picture.read_bytes()).decode("ascii")
    kind = KINDS[picture.suffix]
    return f'<img alt="{name}" style="max-width:100%;background:white" src="data:{kind};base64,{content}">'
