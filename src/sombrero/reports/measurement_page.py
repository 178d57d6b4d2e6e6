"""``measurement.html``: one measured model, and its base where it was measured against one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sombrero.records import Proportion
from sombrero.reports.agreement_rows import agreement_view
from sombrero.reports.measurement_rows import KINDS, PAIR_COLUMNS, SPREAD_COLUMNS, nats, pair_row, spread_row
from sombrero.reports.page import environment, model_label
from sombrero.reports.page_scripts import asset
from sombrero.reports.verdict import SHARES, share_cell
from sombrero.reports.wording import NOTHING, clipped, count, number
from sombrero.reports.writing import write

PAGE = "measurement.html"
COHERENCE = (
    ("perplexity", "Perplexity of harmless answers, under the base"),
    ("repetition", "Repeated 4-grams in harmless answers (mean share)"),
    ("distinct_1", "Distinct tokens over all tokens (distinct-1)"),
    ("distinct_2", "Distinct bigrams over all tokens (distinct-2)"),
    ("distinct_3", "Distinct trigrams over all tokens (distinct-3)"),
    ("empty", "Empty harmless answers"),
    ("degenerate", "Degenerate harmless answers"),
    ("loop_rate", "Harmless answers that end in a loop (share)"),
    ("mean_tokens", "Length of harmless answers (mean tokens)"),
    ("length_ratio", "Their length over that of the base's answers"),
)


def write_measurement(folder: Path, found: Mapping[str, Any]) -> Path:
    """Write ``measurement.html`` of what ``measurement.json`` holds; the same document gives the same bytes.

    Raises RunError when nothing can be written.
    """
    write(folder / PAGE, render_measurement(found).encode())
    return folder / PAGE


def render_measurement(found: Mapping[str, Any]) -> str:
    """The page as text: no script, no request to a network, every foreign text escaped and made visible."""
    models = {"This model": found} if found["base"] is None else {"Base": found["base"], "This model": found}
    return (
        environment()
        .get_template("measurement.html.j2")
        .render(
            model=model_label(found["model"]),
            base=None if found["against"] is None else model_label(found["against"]),
            found=found,
            sentence=sentence(found),
            columns=list(models),
            shares=[
                (label, [share_cell(Proportion(**one[key])) for one in models.values()])
                for key, label in SHARES
                if all(key in one for one in models.values())
            ],
            labels=[(label, [one["labels"][label] for one in models.values()]) for label in found["labels"]],
            coherence=[
                (label, [number(one["coherence"].get(key)) for one in models.values()]) for key, label in COHERENCE
            ],
            pairs=[(dict(SHARES)[name], *pair_row(pair)) for name, pair in (found["paired"] or {}).items()],
            pair_columns=("Prompts", *PAIR_COLUMNS),
            spread_columns=("Where", *SPREAD_COLUMNS),
            divergence=None if found["kl"] is None else _divergence(found["kl"]),
            agreement=agreement_view(found.get("agreement")),
            tasks=[
                _task_row("Base" if name == "against" else "This model", result)
                for name, results in (found["tasks"] or {}).items()
                for result in results or ()
            ],
            samples=[
                {**sample, **{name: _answer(sample[name]) for name in ("prompt", "base", "answer")}}
                for sample in found["samples"]
            ],
            checkpoints=[(name, facts) for name, facts in found["checkpoints"].items() if facts is not None],
            style=Markup(asset("report.css")),
        )
    )


def sentence(found: Mapping[str, Any]) -> str:
    """The refusals, and beside a base whether they differ more than chance would let them."""
    refusals = Proportion(**found["refusals"])
    if found["base"] is None:
        return f"The model refuses {count(refusals)} of the harmful prompts."
    own = found["paired"]["refusals"]
    return (
        f"The model refuses {count(refusals)} of the harmful prompts; its base refuses "
        f"{count(Proportion(**found['base']['refusals']))} of the same ones: {own['base_only']} are refused by the "
        f"base alone, {own['edited_only']} by this model alone (McNemar's exact test, p = {number(own['p_value'], 2)})."
    )


def _divergence(kl: Mapping[str, Any]) -> dict[str, Any]:
    rows = [(label, *spread_row(kl, key)) for key, label in KINDS]
    largest = max((mean for mean in kl["by_position"] if mean is not None), default=0.0) or 1.0
    places = [
        {
            "place": number(place + 1),
            "mean": nats(mean),
            "share": 100 if mean is None else round(100 * mean / largest, 1),
            "n": number(n),
        }
        for place, (mean, n) in enumerate(zip(kl["by_position"], kl["n_by_position"], strict=True))
    ]
    return {"rows": rows, "places": places}


def _task_row(name: str, result: Mapping[str, Any]) -> dict[str, str]:
    better = {True: "higher", False: "lower", None: NOTHING}[result["higher_is_better"]]
    return {
        "model": name,
        **{key: str(result[key]) for key in ("task", "metric", "version")},
        "value": number(result["value"], 4),
        "stderr": NOTHING if result["stderr"] is None else f"± {number(result['stderr'])}",
        "n": number(result["n"]),
        "better": better,
    }


def _answer(text: str | None) -> str | None:
    return None if text is None else clipped(text)
