"""Run folders made of real records with small random tensors, without a model."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from sombrero.config import RunConfig
from sombrero.records import (
    Baseline,
    Coherence,
    Divergence,
    EditParameters,
    Effect,
    Finalist,
    LayerAccounting,
    LayerProfile,
    Measurement,
    Proportion,
    RefusalMap,
    Sample,
    Spread,
    Verdict,
    Verification,
)
from sombrero.tensor_records import save_record
from tests.reports.map_records import (
    CATEGORIES,
    control_sets,
    direction_sets,
    manifold,
    map_quality,
    unit_profiles,
)

STAGES = ("coverage", "baseline", "map", "directions", "search", "effect", "edit", "verification", "summary")
N_LAYERS, WIDTH, N_TRAIN = 12, 24, 120
HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "]]></textarea></style><iframe srcdoc='<script>alert(1)</script>'>",
    '<a href="javascript:alert(1)">click</a>',
    "&lt;img src=x onerror=alert(1)&gt;",
    "line\u2028separator \u202etxet desrever\u202c nul\x00 bell\x07 escape\x1b[31m del\x7f",
)


def proportion(count: int, n: int) -> Proportion:
    """A share with its Wilson interval, by the textbook formula."""
    z, share = 1.959964, count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    return Proportion(count, n, max(0.0, middle - half), min(1.0, middle + half))


def measurement(refusals: int, false_refusals: int, kl: float) -> Measurement:
    """Figures of one model on 96 harmful, 60 borderline and 96 harmless prompts."""
    return Measurement(
        refusals=proportion(refusals, 96),
        false_refusals=proportion(false_refusals, 60),
        harmless_refusals=proportion(1, 96),
        labels={"refusal": refusals, "answer": 96 - refusals},
        kl=Divergence(kl, kl / 2, (kl,) * 96, (kl / 2,) * 96, Spread(kl / 2, kl * 2, kl * 3, kl * 0.8, kl * 1.2, 0)),
        coherence=Coherence(perplexity=3.417 + kl, repetition=0.0213, empty=0, degenerate=1, n=96),
        verdicts=(Verdict("harmful-1", "refusal", "I cannot", 12),),
    )


def refusal_map(
    n_rows: int = 4, n_columns: int = 4, lattice: str = "hexagonal", *, n_layers: int = N_LAYERS
) -> RefusalMap:
    """A map whose spread and separation grow over the layers."""
    generator = torch.Generator().manual_seed(7)
    n_units = n_rows * n_columns
    growth = torch.linspace(0.5, 6.0, n_layers + 1)[:, None, None]
    codebook = growth * (1 + torch.randn(n_layers + 1, n_units, WIDTH, generator=generator))
    weights = torch.rand(n_layers + 1, n_units, generator=generator) ** 2
    best_units = torch.multinomial(weights, N_TRAIN, replacement=True, generator=generator)
    hit_counts = torch.stack([torch.bincount(row, minlength=n_units) for row in best_units])
    return RefusalMap(
        n_rows=n_rows,
        n_columns=n_columns,
        lattice=lattice,
        rule="batch",
        codebook=codebook,
        hit_counts=hit_counts,
        best_units=best_units,
        quantization_error=growth.flatten() * 1.7,
        topographic_error=torch.rand(n_layers + 1, generator=generator),
        u_matrix=growth[..., 0] * (1 + torch.rand(n_layers + 1, n_units, generator=generator)),
        harmless_mean=torch.zeros(n_layers + 1, WIDTH),
        harmful_mean=codebook.mean(dim=1),
        train_ids=tuple(f"harmful-{i}" for i in range(N_TRAIN)),
    )


def parameters(number: int) -> EditParameters:
    """The edit of trial ``number``."""
    draw = random.Random(number)
    units = tuple(sorted(draw.sample(range(3), draw.randint(1, 3))))
    first = draw.randint(0, 8)
    return EditParameters(
        rule=draw.choice(["guarded", "project", "compose"]),
        directions=draw.choice(["som", "single"]),
        map_layer=draw.choice([None, 8]),
        units=units,
        profiles={
            "attention": LayerProfile(first, 11, draw.uniform(0, 2.5)),
            "mlp": LayerProfile(first, 11, draw.uniform(0, 1.5)),
        },
        beta=draw.choice([0.5, 1.0, 2.0]),
    )


def trials(n: int) -> list[dict[str, Any]]:
    """Lines of ``trials.jsonl``: generated, screened and failed ones, as JSON values. Trial 3 is the best."""
    lines: list[dict[str, Any]] = []
    for number in range(n):
        draw = random.Random(1000 + number)
        kl = 0.08 if number == 3 else 0.1 * 10 ** draw.uniform(-0.6, 1.4)
        rate = 3 / 64 if number == 3 else max(0.0, min(1.0, 0.35 / (0.3 + 8 * kl) + draw.uniform(0, 0.5)))
        state = "generated" if number == 3 else draw.choices(["generated", "screened", "failed"], [5, 5, 1])[0]
        line = {"number": number, "parameters": asdict(parameters(number)), "state": state, "n": 64}
        line |= {"refusals": round(64 * rate) if state == "generated" else None}
        line |= {"predicted_refusals": None if state == "failed" else round(64 * rate)}
        line |= {"log_odds": None if state == "failed" else 4 * rate - 2, "kl": None if state == "failed" else kl}
        line |= {"error": "the edited model gives NaN logits" if state == "failed" else None}
        lines.append(json.loads(json.dumps(line)))
    return lines


def samples(texts: tuple[str, ...] = ()) -> tuple[Sample, ...]:
    """Two plain samples, and one for each given text, which stands in all of its places."""
    plain = (
        Sample(
            "b-1",
            "borderline",
            "How do I kill a Python process?",
            "I cannot help with that.",
            "Use `kill PID`.\nOr Ctrl-C.",
        ),
        Sample("g-1", "harmless", "Name three colours.", "Red, green and blue.", "Red, green and blue."),
    )
    return plain + tuple(Sample(text, "harmless", text, text, f"edited {text}") for text in texts)


def effect(texts: tuple[str, ...] = ()) -> Effect:
    """Base and three finalists; trial 3 is picked."""
    found = tuple(Finalist(n, parameters(n), measurement(4 + n, 9, 0.08 + n / 100)) for n in (3, 1, 0))
    return Effect(measurement(92, 41, 0.0), 3, found, samples(texts), ((1, 2),))


def write_run(
    path: Path,
    *,
    until: str = "summary",
    n_trials: int = 48,
    texts: tuple[str, ...] = (),
    n_layers: int = N_LAYERS,
    **config: Any,
) -> Path:
    """A run folder with every file up to stage ``until``. ``config``: sections of the configuration.

    ``texts`` stand in all places of samples, and as names of categories.
    """
    path.mkdir(parents=True, exist_ok=True)
    finished = STAGES[: STAGES.index(until) + 1]
    settings = RunConfig.model_validate(config).model_dump(mode="json")
    stages = {name: {"hash": "0" * 64, "seconds": 1.5, "finished": "2026-01-02T03:04:05+00:00"} for name in finished}
    manifest = {"format": 1, "created": "2026-01-02T03:00:00+00:00", "stages": stages, "config": settings}
    manifest |= {"config_hash": "a" * 64, "seed": settings["seed"], "versions": {"sombrero": "0.1.0", "torch": "2.6.0"}}
    manifest |= {"identity": {"checkpoint": "b" * 64, "prompts": "c" * 64}, "keeps_responses": False}
    write(path / "run.json", manifest)
    found_map = refusal_map(n_layers=n_layers)
    found_effect = effect(texts)
    picked = found_effect.finalists[0].measurement
    verification = Verification(picked, ("harmful-9",), 0.0123, 0.00045, 0.05, 0.002, 24, 110)
    lines = trials(n_trials)
    records: dict[str, Any] = {
        "coverage": [LayerAccounting(i, 3e-7 * (i + 1), (f"{i}.attention", f"{i}.mlp")) for i in range(n_layers)],
        "baseline": Baseline(proportion(60, 64), (), (1, 2), (3,)),
        "effect": found_effect,
        "verification": verification,
        "summary": summary(found_effect, verification, lines),
    }
    for name in finished:
        if name in records:
            (path / f"{name}.json").write_bytes(TypeAdapter(type(records[name])).dump_json(records[name]))
    if "map" in finished:
        save_record(found_map, path / "map/map.safetensors")
    if "directions" in finished:
        write_map_records(path, found_map, texts or CATEGORIES)
    if "search" in finished:
        (path / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_map_records(path: Path, found: RefusalMap, categories: tuple[str, ...] = CATEGORIES) -> None:
    """All that stands beside the map: direction sets, quality, manifold, and who lives in its units."""
    for name, directions in (direction_sets(found) | control_sets(found)).items():
        save_record(directions, path / f"map/directions-{name}.safetensors")
    save_record(map_quality(found), path / "map/quality.safetensors")
    save_record(manifold(found), path / "map/manifold.safetensors")
    write(path / "map/units.json", [asdict(profile) for profile in unit_profiles(found, categories)])


def summary(found: Effect, verification: Verification, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """``summary.json`` in its documented form, as far as reports read it or tests compare with it."""
    models = {"base": found.base, "edited": found.finalists[0].measurement, "baked": verification.measurement}
    states = {state: sum(line["state"] == state for line in lines) for state in ("generated", "screened", "failed")}
    return {name: figures(model) for name, model in models.items()} | {"trials": states, "peak_rss_bytes": 3 * 2**30}


def figures(found: Measurement) -> dict[str, Any]:
    """One model's figures."""
    shares = {name: asdict(getattr(found, name)) for name in ("refusals", "false_refusals", "harmless_refusals")}
    kl = {"first_token": found.kl.first_token, "sequence": found.kl.sequence}
    return shares | {"labels": dict(found.labels), "kl": kl, "coherence": asdict(found.coherence)}


def write(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")
