"""What a page carries to be alive: its own script, the library that draws its charts, the policy that allows both."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from markupsafe import Markup

from sombrero.reports.wording import script_json

CHART_LIBRARY = "plotly-basic-4.1.1.min.js.gz"
"""From npm's ``plotly.js-basic-dist-min`` (MIT): scatter and bar charts, a quarter of the bundle that Python's has."""

EARLY, PARTS = "theme.js", ("page_data.js", "charts.js", "manifold.js", "map.js", "downloads.js")
"""Run before anything is seen; and the parts of the one script that runs when the page is there, in order."""


def page_scripts(
    charts: Mapping[str, Any], tables: Mapping[str, Any], explorers: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the template ``scripts.html.j2`` and the page's head are filled with.

    charts: figures by name, for the library, which is left out where there are none. tables: ``columns`` and ``rows``
    by the figure's name, for download. explorers: what the sliders of ``map`` and ``manifold`` show.
    """
    own = '"use strict";\n(() => {\n' + "".join(asset(f"scripts/{name}") for name in PARTS) + "})();\n"
    early, library = asset(f"scripts/{EARLY}"), chart_library() if charts else None
    data = {"charts": charts, "tables": tables} | dict(explorers or {})
    return {
        "style": Markup(asset("report.css")),
        "early": Markup(early),
        "library": None if library is None else Markup(library),
        "script": Markup(own),
        "policy": " ".join(f"'{script_hash(code)}'" for code in (early, library, own) if code is not None),
        "data": script_json(data),
    }


def chart_library() -> str:
    """The source of the library that draws charts. Nothing in it ends a script element."""
    packed = resources.files("sombrero.reports").joinpath("vendor", CHART_LIBRARY).read_bytes()
    return gzip.decompress(packed).decode()


def asset(name: str) -> str:
    """A file beside the templates."""
    return resources.files("sombrero.reports").joinpath("templates", *name.split("/")).read_text(encoding="utf-8")


def script_hash(script: str) -> str:
    """The source of a content security policy that allows this one script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
