"""Section: the layers. Where refusal is readable, how large it is, how many directions it takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sombrero.reports.charts import BLUE, GREEN, GREY, PURPLE, VERMILLION, base_layout, decades, figure_data, plotted
from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import number

if TYPE_CHECKING:
    import torch
    from plotly.graph_objects import Figure

SALIENT_UNITS = 3
PANELS = (
    "AUROC on held-out prompts",
    "Distances in state space",
    "Effective rank of the map's directions",
    "Residual accounting, relative error",
)


def layers_section(run: RunFiles) -> dict[str, Any] | None:
    """The chart of four panels over the state index, and the same numbers as a table."""
    if run.refusal_map is None or run.som is None or run.single is None:
        return None
    lines = layer_numbers(run)
    n_states = len(lines["single"])
    rows = [[str(i), *(number(values[i]) for values in lines["table"].values())] for i in range(n_states)]
    window = edited_window(run)
    return {
        "figure": figure_data(layer_figure(lines, run.best_state or 0, window)),
        "columns": ["State", *lines["table"]],
        "rows": rows,
        "best": run.best_state,
        "window": window,
        "salient": len(lines["units"]),
    }


def layer_numbers(run: RunFiles) -> dict[str, Any]:
    """Every line of the chart, one value a state index; ``units`` holds the most salient units' lines."""
    if run.refusal_map is None or run.som is None or run.single is None:
        raise ValueError("layer_numbers needs the map and its directions")
    refusal_map = run.refusal_map
    shown = min(SALIENT_UNITS, run.som.auroc.shape[1])
    units = [run.som.auroc[:, rank].tolist() for rank in range(shown)]
    difference = (refusal_map.harmful_mean - refusal_map.harmless_mean).float().norm(dim=-1).tolist()
    errors: list[float] = [float("nan")] * len(difference)
    for entry in run.coverage or ():
        if entry.layer + 1 < len(errors):
            errors[entry.layer + 1] = entry.relative_error
    single = run.single.auroc[:, 0].tolist()
    lines = {
        "difference": difference,
        "quantization": refusal_map.quantization_error.tolist(),
        "rank": effective_rank(run.som.vectors, run.som.hit_counts).tolist(),
        "accounting": errors,
    }
    table = {
        "AUROC, single": single,
        **{f"AUROC, unit {rank + 1}": values for rank, values in enumerate(units)},
        "‖difference of means‖": lines["difference"],
        "Quantization error": lines["quantization"],
        "Effective rank": lines["rank"],
        "Accounting error": lines["accounting"],
    }
    return lines | {"single": single, "units": units, "table": table}


def effective_rank(vectors: torch.Tensor, hit_counts: torch.Tensor) -> torch.Tensor:
    """Effective number of dimensions of the directions of units that were hit: ``(L + 1, m, d)`` to ``(L + 1,)``.

    exp of the entropy of the normalised singular values of the unit directions (Roy & Vetterli 2007, definition 1),
    taken from the ``(m, m)`` Gram matrix in float64, so that it costs little at any width.
    """
    import torch

    unit = torch.nn.functional.normalize(vectors.to(torch.float64), dim=-1) * (hit_counts > 0)[..., None]
    values = torch.linalg.eigvalsh(unit @ unit.mT).clamp_min(0.0).sqrt()
    share = values / values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.exp(torch.special.entr(share).sum(dim=-1))


def edited_window(run: RunFiles) -> tuple[int, int] | None:
    """First and last state index that the picked edit changes directly: those after its first and last edited layer."""
    if run.chosen is None:
        return None
    active = [profile for profile in run.chosen.parameters.profiles.values() if profile.strength]
    if not active:
        return None
    return min(profile.first for profile in active) + 1, max(profile.last for profile in active) + 1


def layer_figure(lines: dict[str, Any], best: int, window: tuple[int, int] | None) -> Figure:
    """Four panels over one axis, the state index."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=len(PANELS), cols=1, shared_xaxes=True, vertical_spacing=0.075, subplot_titles=PANELS)
    figure.update_layout(base_layout(860), hovermode="x unified", hoversubplots="axis")
    figure.update_layout(legend={"y": 1.045}, margin={"t": 92})
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    for name, values, panel, colour, dash in _traces(lines):
        figure.add_scatter(
            x=list(range(len(values))),
            y=plotted(values),
            name=name,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": colour, "dash": dash, "width": 2},
            hovertemplate="%{y:.4g}",
            row=panel,
            col=1,
        )
    figure.add_vline(x=best, line={"color": GREY, "dash": "dot", "width": 1})
    if window is not None:
        figure.add_vrect(x0=window[0] - 0.5, x1=window[1] + 0.5, fillcolor=GREY, opacity=0.13, line_width=0)
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(zeroline=False, nticks=5)
    figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_yaxes(type="log", tickformat=".0e", dtick=decades(lines["accounting"]), row=4)
    figure.update_xaxes(title={"text": "state index", "font": {"size": 13}}, row=len(PANELS))
    return figure


def _traces(lines: dict[str, Any]) -> list[tuple[str, list[float], int, str, str]]:
    dashes = ("dash", "dot", "dashdot")
    found = [("single direction", lines["single"], 1, BLUE, "solid")]
    found += [
        (f"unit of salience {rank + 1}", values, 1, VERMILLION, dashes[rank % len(dashes)])
        for rank, values in enumerate(lines["units"])
    ]
    return [
        *found,
        ("norm of the difference of means", lines["difference"], 2, BLUE, "solid"),
        ("quantization error", lines["quantization"], 2, GREEN, "dash"),
        ("effective rank", lines["rank"], 3, PURPLE, "solid"),
        ("accounting error", lines["accounting"], 4, GREY, "solid"),
    ]
