"""``report.html``: one file that opens by double click and asks nothing of the network, and ``map.png`` beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sombrero.records import EMBEDDED
from sombrero.reports.comparison_section import comparison_section
from sombrero.reports.controls_section import controls_section
from sombrero.reports.importance import kept_importance
from sombrero.reports.layers_section import layers_section
from sombrero.reports.manifold_section import manifold_section
from sombrero.reports.map_section import map_section
from sombrero.reports.measurement_section import measurement_section
from sombrero.reports.origin_section import origin_section
from sombrero.reports.page_scripts import page_scripts
from sombrero.reports.proof_section import proof_section
from sombrero.reports.run_files import RunFiles, read_run
from sombrero.reports.samples_section import samples_section
from sombrero.reports.sizes_section import sizes_section
from sombrero.reports.static_map import draw_map
from sombrero.reports.trials_section import trials_section
from sombrero.reports.verdict import verdict
from sombrero.reports.wording import visible
from sombrero.reports.writing import write

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT, STATIC_MAP = "report.html", "map.png"

SECTIONS: tuple[tuple[str, str, Callable[[RunFiles], dict[str, Any] | None]], ...] = (
    ("verdict", "What the edit did", verdict),
    ("map", "The map of refusal", map_section),
    ("manifold", "Where refusal lies", manifold_section),
    ("sizes", "How many directions", sizes_section),
    ("layers", "Layer by layer", layers_section),
    ("controls", "The map and its controls", controls_section),
    ("trials", "The search", trials_section),
    ("comparison", "At equal refusal", comparison_section),
    ("samples", "Before and after", samples_section),
    ("pairs", "Prompt by prompt", measurement_section),
    ("proof", "Proof of coverage", proof_section),
    ("origin", "How this was made", origin_section),
)
"""Name (of the template and the anchor), heading, and the function that gives the template its values."""

SHORT_TITLES = {
    "verdict": "Result",
    "map": "Map",
    "manifold": "Manifold",
    "sizes": "How many",
    "layers": "Layers",
    "controls": "Controls",
    "trials": "Search",
    "comparison": "Comparison",
    "samples": "Answers",
    "pairs": "Pairs",
    "proof": "Proof",
    "origin": "Origin",
}
"""What the line of links calls the sections; a section without one is called by its heading."""


def write_report(run: Path) -> Path:
    """Write ``report.html`` of the run folder ``run``, and ``map.png`` once it has a map. Returns the page's path.

    Reads files alone. Of a run that is still going it shows the sections whose files exist, and says what is missing;
    the same files give the same bytes. Raises RunError when there is no run, a record is missing or damaged, or nothing
    can be written.
    """
    files = read_run(run)
    files = replace(files, importance=kept_importance(run, files.trials))
    page = render(files)
    write(run / REPORT, page.encode())
    if files.refusal_map is not None and files.single is not None:
        write(run / STATIC_MAP, draw_map(files.refusal_map, files.single, model_name(files)))
    return run / REPORT


def render(run: RunFiles) -> str:
    """The page as text."""
    views = {name: view(run) for name, _, view in SECTIONS}
    charts, tables = figures_of(views), tables_of(views)
    sliders = {name: (views[name] or {}).get("explorer") for name in ("map", "manifold")}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            model=model_name(run),
            revision=run.manifest["config"].get("model", {}).get("revision"),
            created=str(run.manifest.get("created") or "").replace("T", " ").removesuffix("+00:00"),
            seed=run.manifest.get("seed"),
            goal=run.manifest["config"].get("search", {}).get("goal"),
            sections=[(name, title, views[name]) for name, title, _ in SECTIONS],
            short_titles=SHORT_TITLES,
            progress=progress(run),
            keeps_responses=bool(run.manifest.get("keeps_responses")),
            **page_scripts(charts, tables, sliders),
        )
    )


Views = Mapping[str, dict[str, Any] | None]


def figures_of(views: Views) -> dict[str, Any]:
    """Every chart by name: a section's own ``figure`` has the section's name, its ``figures`` have theirs."""
    return _collected(views, "figure", "figures")


def tables_of(views: Views) -> dict[str, Any]:
    """The numbers of every figure, likewise: ``table`` and ``tables``."""
    return _collected(views, "table", "tables")


def _collected(views: Views, one: str, several: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, view in views.items():
        if view is not None:
            found |= {name: view[one]} if one in view else {}
            found |= view.get(several, {})
    return found


def model_name(run: RunFiles) -> str:
    """What the model is called: a hub id, or the last part of a folder, whose other parts are nobody's business."""
    return model_label(str(run.manifest["config"].get("model", {}).get("source", "embedded")))


def model_label(source: str) -> str:
    """:func:`model_name` for what the user gave as the model."""
    if source in EMBEDDED:
        return "Sombrero's embedded model" + (" of five parts" if source == "embedded-parts" else "")
    parts = source.replace("\\", "/").rstrip("/").split("/")
    is_hub_id = len(parts) == 2 and parts[0] not in ("", ".", "..", "~")
    return source if is_hub_id else parts[-1] or source


def progress(run: RunFiles) -> dict[str, Any] | None:
    """What a run that is not finished still lacks; None when it is complete and its figures belong together."""
    n_trials = len(run.trials or ())
    judged = sum((run.summary or {}).get("trials", {}).values()) if run.summary else n_trials
    if not run.missing and judged == n_trials:
        return None
    return {"missing": run.missing, "trials": n_trials, "planned": run.planned_trials, "judged": judged}


def environment() -> Environment:
    """Templates of the house's pages: strict, and every text escaped and made visible."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("sombrero.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    """Every text that a template prints goes through :func:`visible`; autoescape follows."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
