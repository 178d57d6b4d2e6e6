"""Results as tables for people. On a terminal sentences break between words, in a pipe not at all."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sombrero.safe_text import printable

COUNTS = (
    ("refusals", "refusals on harmful prompts"),
    ("false_refusals", "false refusals on borderline prompts"),
    ("harmless_refusals", "refusals on plain harmless prompts"),
    ("contrast_refusals", "refusals on harmful contrasts"),
    ("reasoning_refusals", "reasoning that refuses"),
)
COHERENCE = (
    ("perplexity", "perplexity of harmless answers"),
    ("repetition", "repeated 4-grams in them"),
    ("distinct_2", "distinct-2 of them"),
    ("loop_rate", "share of them that loop"),
    ("length_ratio", "their length over the base's"),
)
CATEGORIES_SHOWN = 3


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """The result of a run: base, live and baked beside each other, on the reporting prompts."""
    models = {"base": summary["base"], "edited (live)": summary["edited"], "baked": summary["baked"]}
    console.print(figures_table("On the reporting prompts, never seen by map or search", models))
    if "kept" in summary:
        kept = ", ".join(f"{name} {_count(value)}" for name, value in summary["kept"]["baked"].items())
        console.print(f"of the base model's refusals, the baked model keeps: {kept}")
    edit = summary["edit"]
    units = "single direction" if edit["directions"] == "single" else f"map units {edit['units']}"
    console.print(
        f"edit: rule {edit['rule']}, {units}, rank {edit['rank']}, {edit['writers']} writers, trial {edit['trial']}"
    )
    agreement = summary["live_equals_baked"]
    console.print(
        f"live and baked: {len(agreement['flips'])} verdicts differ, max |Δ log-prob| "
        f"{agreement['max_log_prob_difference']:.2g}; {summary['tensors']['untouched']} tensors untouched, "
        f"{summary['tensors']['edited']} edited"
    )
    seconds = sum(summary["seconds"].values())
    trials = ", ".join(f"{count} {state}" for state, count in summary["trials"].items() if count)
    console.print(f"trials: {trials}; {seconds:.0f} s in all, peak memory {summary['peak_rss_bytes'] / 2**30:.2f} GiB")
    console.print(
        f"report: {escape(summary['run'])}/report.html   model: {escape(summary['run'])}/model", soft_wrap=True
    )


def print_measurement(console: Console, found: dict[str, Any]) -> None:
    """One model's figures, beside those of its base where there is one; paired tests, tasks, and what to know."""
    title = f"measured: {_safe(found['model'])}"
    models = {"": found} if found["base"] is None else {"base": found["base"], "this model": found}
    console.print(figures_table(title, models))
    labels = dict(COUNTS)
    for name, pair in (found["paired"] or {}).items():
        console.print(
            f"{labels[name]}, pair by pair: {pair_sentence(pair)}", soft_wrap=not console.is_terminal, highlight=False
        )
    for model, pairs in (found["agreement"] or {}).items():
        for pair in (pair for pair in pairs or () if pair["set"] == "all"):
            name = "base, " if model == "against" else "" if found["base"] is None else "this model, "
            console.print(
                f"{name}{_safe(agreement_sentence(pair))}", soft_wrap=not console.is_terminal, highlight=False
            )
    for model, results in (found["tasks"] or {}).items():
        for result in results or ():
            error = "" if result["stderr"] is None else f" ± {result['stderr']:.3f}"
            name = "base" if model == "against" else "this model"
            line = f"{name}, {result['task']}, {result['metric']}: {result['value']:.4g}{error} (n = {result['n']})"
            console.print(_safe(line), soft_wrap=not console.is_terminal, highlight=False)
    for note in found["notes"]:
        console.print(f"note: {_safe(note)}", soft_wrap=not console.is_terminal)


def pair_sentence(pair: dict[str, Any]) -> str:
    """``3 prompts are refused by the base alone, ...``."""
    interval = "" if pair["low"] is None else f" (95% {100 * pair['low']:+.1f} to {100 * pair['high']:+.1f})"
    return (
        f"{pair['base_only']} refused by the base alone, {pair['edited_only']} by this model alone; difference "
        f"{100 * pair['difference']:+.1f} points{interval}, McNemar p = {pair['p_value']:.2g}"
    )


def agreement_sentence(pair: dict[str, Any]) -> str:
    """``opening and judge: Cohen's κ 0.83 ...``, of two detectors on all responses."""
    names = f"{pair['first']} and {pair['second']}"
    if pair["observed"] is None:
        return f"{names}: {pair['problem']}"
    same = sum(row[place] for place, row in enumerate(pair["table"]) if pair["labels"][place] != "unknown")
    kappa = f"Cohen's κ {_known(pair['kappa'])}, of refusal or not {_known(pair['refusal_kappa'])}"
    problem = f" ({pair['problem']})" if pair["problem"] else ""
    return f"{names}: {kappa}{problem}; the same label for {same} of {pair['n_judged']} responses judged by both"


def _safe(text: object) -> str:
    return escape(printable(str(text)))


def print_mapping(console: Console, found: dict[str, Any]) -> None:
    """Names and values."""
    table = Table(show_header=False, box=None)
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {_number(item)}" for name, item in value.items())
        elif isinstance(value, list):
            value = "\n".join(_front_line(item) if isinstance(item, dict) else _number(item) for item in value)
        table.add_row(key.replace("_", " "), escape(_number(value)))
    console.print(table)


def print_inspection(console: Console, found: dict[str, Any]) -> None:
    """What is known of a model: sizes in GiB, layers with the same writers in one line, what is not covered."""
    per_layer = [
        f"layers {entry['layers']}: {', '.join(f'{count} {kind}' for kind, count in entry['writers'].items())}"
        for entry in found["writers_per_layer"]
    ]
    checkpoint = {name: value for name, value in found["checkpoint"].items() if value is not None}
    if "bytes" in checkpoint:
        checkpoint["bytes"] = f"{checkpoint['bytes'] / 2**30:.2f} GiB"
    memory = {name.replace("_", " "): _size(value) for name, value in found["memory_bytes"].items()}
    shown = found | {"checkpoint": checkpoint, "writers_per_layer": per_layer, "memory": memory}
    shown |= {name: f"{found[name]:,}" for name in ("parameters", "parameters_touched")}
    shown["chat_template"] = {True: "yes", False: "no", None: "not known"}[found["chat_template"]]
    marks = {name: mark for name, mark in (found["reasoning"] or {}).items() if mark is not None}
    shown["reasoning"] = marks or "none described"
    del shown["memory_bytes"]
    print_mapping(console, shown)


def print_notes(console: Console, found: dict[str, Any]) -> None:
    """What a proposed entry rests on, and what it leaves open."""
    error = "not accounted for" if found["accounting"] is None else f"relative error {found['accounting']:.1e}"
    state = "complete" if found["complete"] else "not complete"
    traced = found["traced_on"]
    console.print(
        f"{state}; residual accounting on {traced['layers']} random layers, {traced['parameters']} parameters: {error}",
        soft_wrap=not console.is_terminal,
        highlight=False,
    )
    for note in found["notes"]:
        console.print(f"note: {_safe(note)}", soft_wrap=not console.is_terminal, highlight=False)


def print_map(console: Console, found: dict[str, Any]) -> None:
    """The map at its chosen layer: its figures, who lives in its units, and its statements beside their controls."""
    shown_below = ("controls", "statements", "units", "permutations", "auroc_units", "hit_counts", "supported_units")
    figures_here = {key: value for key, value in found.items() if key not in shown_below}
    figures_here["base_refusals"] = "{count}/{n}".format(**found["base_refusals"])
    if found["layer_rule"] == "auroc":  # which knows no bound
        del figures_here["layer_within_bound"]
    print_mapping(console, figures_here)
    units = Table("unit", "prompts", "log-odds", "categories", title="Units of the map", title_justify="left")
    for unit in found["units"]:
        categories = [f"{name} {count}" for name, count in unit["categories"].items()]
        more = ["…"] if len(categories) > CATEGORIES_SHOWN else []
        odds = "–" if unit["log_odds"] is None else f"{unit['log_odds']:.2f}"
        shown = escape(", ".join(categories[:CATEGORIES_SHOWN] + more))
        units.add_row(str(unit["unit"]), str(unit["prompts"]), odds, shown)
    console.print(units)
    sets = Table(
        "directions",
        "best unit's AUROC (95%)",
        "effective rank",
        "to the map's span",
        title="Controls",
        title_justify="left",
    )
    for name, figures in found["controls"].items():
        interval = f"{figures['auroc']:.3f} ({figures['auroc_low']:.3f}–{figures['auroc_high']:.3f})"
        angles = "" if name == "som" else f"{figures['angle_least']:.0f}°–{figures['angle_most']:.0f}°"
        rank = f"{figures['effective_rank']:.2f} of {figures['units']}"
        sets.add_row("map" if name == "som" else name, interval, rank, angles)
    console.print(sets)
    size = found["supported_units"]
    console.print(
        f"the harmful prompts support {_units(size['chosen'])} here (95% interval {size['low']} to {size['high']}); as "
        f"many harmless prompts, whose parts are no refusal, {_units(size['control'])}",
        soft_wrap=not console.is_terminal,
    )
    for statement in found["statements"]:
        beside = ", ".join(f"{name} {value:.3f}" for name, value in statement["controls"].items())
        p = "" if statement["p"] is None else f"; p = {statement['p']:.2g}, {found['permutations']} permutations"
        holds = "holds" if statement["holds"] else "does not hold"
        line = f"{holds}: {statement['text']}: {statement['value']:.3f} (beside {beside}{p})"
        console.print(line, soft_wrap=not console.is_terminal)
    console.print(f"report: {escape(found['run'])}/report.html", soft_wrap=True)


def print_comparison(console: Console, found: dict[str, Any]) -> None:
    """Every method at the levels, map − control with intervals, and the verdict."""
    title = f"At equal refusal, reporting prompts; {found['trials']} trials each, seeds {found['seeds']}"
    table = Table("refusals", "directions", "seeds", "KL first", "KL sequence", "perplexity", "map − it (95%)", "",
                  title=escape(title), title_justify="left")  # fmt: skip
    beside = {(d["control"], d["level"]): d for d in found["differences"]}
    for level in found["levels"]:
        for row in (row for row in found["matched"] if row["level"] == level):
            figures = (_known(row[name]) for name in ("first_token", "sequence", "perplexity"))
            difference = beside.get((row["method"], level))
            found_here = ("", "") if difference is None else (_interval(difference), difference["outcome"])
            reached = f"{row['reached']} of {row['seeds']}"
            table.add_row(f"{100 * level:g}%", row["method"], reached, *figures, *found_here)
    console.print(table)
    console.print(escape(found["verdict"]["sentence"]), soft_wrap=not console.is_terminal)
    console.print(f"report: {escape(found['run'])}/compare.html", soft_wrap=True)


def print_diff(console: Console, found: dict[str, Any]) -> None:
    """The verdict, and every weight that differs."""
    table = Table("tensor", "kind", "rank", "change / weight", "of it, in that rank", "of it, rounding at most")
    for change in found["changes"]:
        rank = "–" if change["rank"] is None else str(change["rank"])
        shares = ("–" if value is None else f"{value:.1%}" for value in (change["explained"], change["rounding"]))
        table.add_row(_safe(change["name"]), change["kind"], rank, f"{change['energy']:.3g}", *shares)
    if found["changes"]:
        console.print(table)
    for key in ("only_base", "only_edited", "other_shape", "bytes_differ"):
        if found[key]:
            console.print(
                f"{key.replace('_', ' ')}: {', '.join(map(_safe, found[key]))}", soft_wrap=not console.is_terminal
            )
    console.print(f"{found['same']} weights are the same; {found['looks']['text']}", soft_wrap=not console.is_terminal)


def _interval(difference: dict[str, Any]) -> str:
    value, low, high = (difference["first_token"][name] for name in ("value", "low", "high"))
    ends = ("−∞" if low is None else f"{low:.3f}", "∞" if high is None else f"{high:.3f}")
    return "not reached" if value is None else f"{value:+.3f} ({ends[0]} to {ends[1]})"


def _known(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _nats(kl: dict[str, Any] | None, key: str) -> str:
    if kl is None:
        return "–"
    return "∞" if kl[key] is None else f"{kl[key]:.3f}"


def _size(n_bytes: int) -> str:
    """GiB, or MiB where that would be nothing."""
    return f"{n_bytes / 2**30:.2f} GiB" if n_bytes >= 2**30 // 100 else f"{n_bytes / 2**20:.2f} MiB"


def _units(count: int) -> str:
    return "one unit" if count == 1 else f"{count} units"


def figures_table(title: str, models: dict[str, dict[str, Any]]) -> Table:
    """Figures of several models, one column each, with 95% intervals."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in models:
        table.add_column(name, justify="right")
    for key, label in COUNTS:
        if all(key in figures for figures in models.values()):  # contrasts are measured for the goal calibrate alone
            table.add_row(label, *(_count(figures[key]) for figures in models.values()))
    for key, label in (("first_token", "KL, first token (nats)"), ("sequence", "KL, per token of an answer (nats)")):
        table.add_row(label, *(_nats(figures["kl"], key) for figures in models.values()))
    for key, label in COHERENCE:
        values = [figures["coherence"].get(key) for figures in models.values()]
        if any(value is not None for value in values):
            table.add_row(label, *map(_known, values))
    return table


def _count(value: dict[str, Any]) -> str:
    return f"{value['count']}/{value['n']} ({100 * value['low']:.0f}–{100 * value['high']:.0f}%)"


def _front_line(score: dict[str, Any]) -> str:
    parameters = score["parameters"]
    lost = f"true refusals lost {score['lost']}/{score['n_true']}, " if score["n_true"] else ""
    return (
        f"trial {score['number']}: refusals {score['refusals']}/{score['n']}, KL {score['kl']:.3f}, {lost}"
        f"{parameters['rule']}, {parameters['directions']} {list(parameters['units'])}"
    )


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
