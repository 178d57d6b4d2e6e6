"""Section: the search. Every trial by what it costs and what it does, the front, and the finalists."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sombrero.records import Finalist, TrialScore
from sombrero.reports.charts import BLUE, GREY, VERMILLION, base_layout, figure_data, log_ticks
from sombrero.reports.data_table import data_table
from sombrero.reports.run_files import RunFiles
from sombrero.reports.verdict import share_cell
from sombrero.reports.wording import (
    NOTHING,
    clipped,
    directions_name,
    finite,
    number,
    percent,
    profiles_name,
    source_state,
    visible,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_POINTS = 600
MOST_ROWS = 200
LEAST_KL = 1e-4
OBJECTIVES = {"refusals": "Refusals", "kl": "First-token KL (log)", "lost": "True refusals lost"}
"""Where the logarithmic axis begins: what diverges less is drawn there, and its true value told on hover."""


def trials_section(run: RunFiles) -> dict[str, Any] | None:
    """The scatter chart, the trials as a table, and the finalists' figures on the reporting prompts."""
    if run.trials is None:
        return None
    front = pareto_front(run.trials)
    chosen = None if run.effect is None else run.effect.chosen
    kept = thinned(run.trials, {chosen, *(trial.number for trial in front)})
    states = ("generated", "screened", "failed")
    failures = [trial for trial in run.trials if trial.state == "failed"]
    return {
        "total": len(run.trials),
        "planned": run.planned_trials,
        "counts": {state: sum(trial.state == state for trial in run.trials) for state in states},
        "shown": len(kept),
        "figure": figure_data(trial_figure(kept, front, chosen)),
        "rows": [trial_row(trial, front, chosen) for trial in kept[:MOST_ROWS]],
        "left_out": len(run.trials) - len(kept[:MOST_ROWS]),
        "tables": trial_tables(kept, front, run.importance),
        "importance": importance_view(run.importance),
        "screening": screening_sentence((run.summary or {}).get("screening")),
        "failures": [(trial.number, clipped(trial.error or "", 300)) for trial in failures[:5]],
        "finalists": [finalist_row(f, chosen) for f in run.effect.finalists] if run.effect is not None else [],
    }


def trial_tables(
    trials: Sequence[TrialScore], front: Sequence[TrialScore], importance: dict[str, Any] | None
) -> dict[str, Any]:
    """The numbers of the chart and of the bars below it."""
    columns = ("trial", "state", "front", "refusals", "predicted_refusals", "n", "rate", "kl", "edit")
    rows = (
        (t.number, t.state, int(t in front), t.refusals, t.predicted_refusals, t.n, t.rate, t.kl, _edit(t))
        for t in trials
    )
    tables = {"trials": data_table(columns, rows)}
    if importance and importance["objectives"]:
        shares = [(o, name, share) for o, found in importance["objectives"].items() for name, share in found.items()]
        tables["importance"] = data_table(("objective", "setting", "share"), shares)
    return tables


def importance_view(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """The shares as bars in percent, by setting, the largest first; or why there are none."""
    if found is None:
        return None
    shares = {OBJECTIVES[name]: share for name, share in found["objectives"].items()}
    settings = sorted(
        {name for share in shares.values() for name in share}, key=lambda n: -max(s[n] for s in shares.values())
    )
    return {
        "problem": found["problem"],
        "evaluator": found["evaluator"],
        "trials": found["trials"],
        "columns": list(shares),
        "rows": [(name, [round(100 * share[name], 1) for share in shares.values()]) for name in settings],
    }


def screening_sentence(found: dict[str, Any] | None) -> str | None:
    """How well the screening ranks trials, from the summary; None where it is not known."""
    if not found or found["refusals"] is None:
        return None
    lost = f", of true refusals lost {found['lost']:.2f}" if found["lost"] is not None else ""
    return (
        f"Spearman's rank correlation of the screening with the full score, over {found['n']} generated trials: of "
        f"predicted refusals {found['refusals']:.2f}{lost}."
    )


def pareto_front(trials: Sequence[TrialScore]) -> tuple[TrialScore, ...]:
    """Generated trials that no other generated one beats on all objectives together, by rising KL."""
    scored = [trial for trial in trials if trial.state == "generated" and trial.kl is not None]
    front = [trial for trial in scored if not any(other.dominates(trial) for other in scored)]
    return tuple(sorted(front, key=lambda trial: (trial.kl, trial.number)))


def thinned(trials: Sequence[TrialScore], always: set[int | None]) -> list[TrialScore]:
    """At most about ``MOST_POINTS`` trials, in order: evenly spaced ones, and those that must be there."""
    step = -(-len(trials) // MOST_POINTS)
    return [trial for place, trial in enumerate(trials) if place % max(1, step) == 0 or trial.number in always]


def trial_figure(trials: Sequence[TrialScore], front: Sequence[TrialScore], chosen: int | None) -> Figure:
    """First-token KL against refusal rate, on the search prompts."""
    import plotly.graph_objects as go

    shown_kl = [max(trial.kl, LEAST_KL) for trial in trials if trial.kl is not None]
    false = any(trial.n_true for trial in trials)
    figure = go.Figure(layout=base_layout(460))
    figure.update_layout(hovermode="closest", margin={"t": 64})
    figure.update_xaxes(title="first-token KL (nats, log scale)", type="log", **log_ticks(shown_kl))
    figure.update_yaxes(
        title="false refusals on borderline-safe prompts" if false else "refusals on harmful prompts",
        tickformat=".0%",
        range=[-0.04, 1.06],
    )
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(zeroline=False, title={"font": {"size": 13}})
    groups: tuple[tuple[str, list[TrialScore], dict[str, Any]], ...] = (
        (
            "screened (refusals predicted)",
            [t for t in trials if t.state == "screened"],
            {"symbol": "x-thin", "size": 8, "line": {"width": 1.5, "color": GREY}},
        ),
        ("generated", [t for t in trials if t.state == "generated"], {"symbol": "circle", "size": 9, "color": BLUE}),
    )
    for name, group, marker in groups:
        figure.add_scatter(name=name, mode="markers", marker=marker, **_points(group))
    line = {"color": VERMILLION, "width": 2, "shape": "hv"}
    figure.add_scatter(name="Pareto front", mode="lines", line=line, **(_points(front) | {"hoverinfo": "skip"}))
    picked = [trial for trial in trials if trial.number == chosen]
    ring = {"symbol": "circle-open", "size": 20, "color": VERMILLION, "line": {"width": 3}}
    if picked:
        figure.add_scatter(name="picked", mode="markers", marker=ring, **(_points(picked) | {"hoverinfo": "skip"}))
    return figure


def trial_row(trial: TrialScore, front: Sequence[TrialScore], chosen: int | None) -> dict[str, Any]:
    """One trial as text."""
    marks = [mark for mark, holds in (("picked", trial.number == chosen), ("front", trial in front)) if holds]
    return {
        "number": trial.number,
        "state": ", ".join([trial.state, *marks]),
        "refusals": _refusals(trial),
        "kl": number(trial.kl),
        "edit": _edit(trial),
    }


def finalist_row(finalist: Finalist, chosen: int | None) -> dict[str, Any]:
    """A finalist's edit and its figures on the reporting prompts."""
    parameters, measurement = finalist.parameters, finalist.measurement
    return {
        "number": finalist.number,
        "chosen": finalist.number == chosen,
        "rule": parameters.rule,
        "directions": f"{directions_name(parameters)} of {source_state(parameters)}",
        "strengths": profiles_name(parameters),
        "refusals": share_cell(measurement.refusals),
        "false_refusals": share_cell(measurement.false_refusals),
        "harmless_refusals": share_cell(measurement.harmless_refusals),
        "first_token": number(measurement.kl.first_token),
        "sequence": number(measurement.kl.sequence),
        "perplexity": number(measurement.coherence.perplexity),
    }


def _points(trials: Sequence[TrialScore]) -> dict[str, Any]:
    return {
        "x": [None if t.kl is None else finite(max(t.kl, LEAST_KL)) for t in trials],
        "y": [finite(t.rate) for t in trials],
        "hovertext": [_hover(t) for t in trials],
        "hoverinfo": "text",
    }


def _hover(trial: TrialScore) -> str:
    """plotly reads a few tags in hover texts: all that comes from the file is escaped."""
    lines = [
        f"trial {trial.number}, {trial.state}",
        f"{_refusals(trial)}, KL {number(trial.kl)}",
        *_edit(trial).split("; "),
    ]
    return "<br>".join(html.escape(visible(clipped(line, 200))) for line in lines)


def _refusals(trial: TrialScore) -> str:
    if trial.refusals is not None:
        faults = f", {trial.faults} deflected or broken" if trial.faults else ""
        lost = f"; {trial.lost}/{trial.n_true} true refusals lost" if trial.n_true else ""
        return f"{trial.refusals}/{trial.n} refusals ({percent(trial.refusals / trial.n)}{faults}){lost}"
    if trial.predicted_refusals is not None:
        return f"{trial.predicted_refusals}/{trial.n} refusals ({percent(trial.rate)}, predicted)"
    return NOTHING


def _edit(trial: TrialScore) -> str:
    parameters = trial.parameters
    gamma = f", γ {parameters.gamma:g}" if trial.n_true else ""
    guard = f" (α {parameters.alpha:g}, β {parameters.beta:g}{gamma})" if parameters.rule == "guarded" else ""
    directions = f"{directions_name(parameters)} of {source_state(parameters)}"
    return f"rule {parameters.rule}{guard}; {directions}; {profiles_name(parameters)}"
