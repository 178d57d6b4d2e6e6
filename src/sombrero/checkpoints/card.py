"""The model card of a baked checkpoint: what was done to which base, what was measured, and what was not."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sombrero.checkpoints.companions import CARD_NAME, RENAMED
from sombrero.checkpoints.markup import base_license, code, fenced, hub_id, plain, yaml_string
from sombrero.checkpoints.staging import write_text
from sombrero.errors import CheckpointError
from sombrero.records import EMBEDDED, EditParameters, Measurement, PairedRefusals, Proportion, Spread

BASE_CARD_NAME = RENAMED[CARD_NAME]
NOT_MEASURED = (
    "capability on task suites (lm-evaluation-harness)",
    "languages other than those of the prompts",
    "conversations of several turns, system prompts other than the one used, and sampling above temperature 0",
    "whether an answer to a harmful request is of any use: refusal is scored, never helpfulness",
    "truthfulness, bias and toxicity",
)
INTENDED_USE = (
    "Research on how models refuse; measurement of how robust a refusal is to changes of the weights; fewer refusals "
    "of harmless requests."
)


MEASURED_BAKED = (
    "Measured on this checkpoint after it was written and loaded again, with greedy decoding, on prompts that the edit "
    "was neither fitted nor chosen on."
)
MEASURED_LIVE = (
    "Measured while the edit was searched for, live and before it was written here, with greedy decoding, on the "
    "prompts of the search: the edit was not fitted on them, but it was chosen by them."
)


@dataclass(frozen=True)
class CardEffect:
    """One row of the table: the same quantity of the base and of this checkpoint. ``unit`` follows a plain number."""

    name: str
    base: Proportion | float | None
    edited: Proportion | float | None
    unit: str = ""


@dataclass(frozen=True)
class CardData:
    """Everything a card says. Any string may come from outside; the card escapes it.

    base: hub id or folder of the base (of a folder, only its last part is printed). rank: K of the edit. n_edited:
    count of edited tensors. effects: before and after, as measured_how says. pairs: paired tests, in sentences.
    prompts: name of a prompt set -> what it is and its size. command and config (TOML): what makes this checkpoint
    again. versions: package -> version. adapter: the folder holds a LoRA adapter, not merged weights. packed:
    how the edited weights of a quantized base are stored, see :class:`~sombrero.checkpoints.record.BakeReport`.
    """

    name: str
    base: str
    base_revision: str | None
    parameters: EditParameters
    rank: int
    n_edited: int
    effects: tuple[CardEffect, ...]
    command: str
    seed: int
    config: str | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    measured_how: str = MEASURED_BAKED
    pairs: tuple[str, ...] = ()
    not_measured: tuple[str, ...] = NOT_MEASURED
    adapter: bool = False
    packed: tuple[Mapping[str, Any], ...] = ()


def measured_effects(base: Measurement, edited: Measurement) -> tuple[CardEffect, ...]:
    """Return the rows of the before and after table for two measurements on the same prompts."""
    deflected = CardEffect(
        "Harmful prompts deflected", base.labels.get("partial"), edited.labels.get("partial"), f"of {edited.refusals.n}"
    )
    contrast = CardEffect("Refusals on short harmful contrasts", base.contrast_refusals, edited.contrast_refusals)
    return (
        CardEffect("Refusals on harmful prompts", base.refusals, edited.refusals),
        *(() if edited.labels.get("partial") is None else (deflected,)),
        *(() if edited.contrast_refusals is None else (contrast,)),
        CardEffect("False refusals on borderline-safe prompts", base.false_refusals, edited.false_refusals),
        CardEffect("Refusals on plain harmless prompts", base.harmless_refusals, edited.harmless_refusals),
        *_reasoning(base, edited),
        *_divergence("KL(base, edited), first token", edited.kl.first_token, edited.kl.first_token_spread),
        *_divergence("KL(base, edited), per token of the base's answer", edited.kl.sequence, edited.kl.sequence_spread),
        CardEffect(
            "Perplexity of harmless answers under the base", base.coherence.perplexity, edited.coherence.perplexity
        ),
        CardEffect("Repeated 4-grams in harmless answers", base.coherence.repetition, edited.coherence.repetition),
        CardEffect("Empty harmless answers", base.coherence.empty, edited.coherence.empty, f"of {edited.coherence.n}"),
        CardEffect(
            "Degenerate harmless answers",
            base.coherence.degenerate,
            edited.coherence.degenerate,
            f"of {edited.coherence.n}",
        ),
    )


def paired_sentence(name: str, pair: PairedRefusals) -> str:
    """The two models' refusals on the same prompts, in words. ``name``: of the prompts, as "harmful prompts"."""
    interval = "" if pair.low is None or pair.high is None else f", 95% {100 * pair.low:+.1f} to {100 * pair.high:+.1f}"
    return (
        f"{name}: {pair.base_only} of {pair.n} refused by the base alone, {pair.edited_only} by this checkpoint alone; "
        f"difference {100 * pair.difference:+.1f} points (paired bootstrap{interval}), McNemar's exact test "
        f"p = {pair.p_value:.2g}"
    )


def _reasoning(base: Measurement, edited: Measurement) -> tuple[CardEffect, ...]:
    """What is cut off inside its reasoning, and reasoning that refuses; nothing of models that do not reason."""
    found = [
        CardEffect(
            "Harmful prompts cut off inside the reasoning",
            base.labels.get("unfinished"),
            edited.labels.get("unfinished"),
            f"of {sum(edited.labels.values())}",
        ),
        CardEffect("Reasoning that refuses, on harmful prompts", base.reasoning_refusals, edited.reasoning_refusals),
    ]
    return tuple(effect for effect in found if effect.base or effect.edited)


def _divergence(name: str, mean: float, spread: Spread | None) -> tuple[CardEffect, ...]:
    """The mean, and where it is known how the values of single prompts lie around it."""
    if spread is None:
        return (CardEffect(name, None, mean, "nats"),)
    interval = "" if spread.low is None else f" (mean, 95% interval {spread.low:.3g} to {spread.high:.3g})"
    infinite = f"; infinite on {spread.infinite} prompts" if spread.infinite else ""
    return (
        CardEffect(f"{name}{interval}", None, mean, "nats"),
        CardEffect(f"{name}, median over prompts", None, spread.median, "nats"),
        CardEffect(f"{name}, 95% quantile over prompts{infinite}", None, spread.q95, "nats"),
    )


def shell_name(base: str) -> str:
    """The base as a shell word of a command that others can use: a hub id, or of a folder its last part."""
    return base if base in EMBEDDED else shlex.quote(hub_id(base) or f"./{_base_name(base)}")


def _base_name(base: str) -> str:
    return Path(base.replace("\\", "/")).name or base


def write_card(folder: Path, card: CardData, *, base_card: Path | None = None) -> Path:
    """Write ``README.md`` in the baked checkpoint ``folder`` and return its path.

    The base's own card stays as ``README.base.md``; its license is carried on. base_card: where it is, for a folder
    that it was not copied to (an adapter). Raises CheckpointError when the folder
    cannot be read or written.
    """
    target, base = folder / CARD_NAME, folder / BASE_CARD_NAME
    try:
        if target.exists() and not base.exists():
            os.replace(target, base)
        if base_card is not None and base_card.is_file() and not base.exists():
            write_text(base, base_card.read_text(encoding="utf-8", errors="replace"))
        readme = base.read_text(encoding="utf-8", errors="replace") if base.exists() else None
        write_text(target, render_card(card, readme))
    except OSError as error:
        raise CheckpointError(f"cannot write the card in {folder}: {error}; give a baked checkpoint folder") from error
    return target


def render_card(card: CardData, base_readme: str | None = None) -> str:
    """Return the text of the card. ``base_readme`` is the base's own card, read for its license alone."""
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "yaml": yaml_string,
        "plain": plain,
        "code": code,
        "fenced": fenced,
        "value": _value,
    }
    text = resources.files("sombrero.checkpoints").joinpath("templates", "model_card.md.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        card=card,
        parameters=card.parameters,
        intended_use=INTENDED_USE,
        base_id=hub_id(card.base),
        base_name=hub_id(card.base) or _base_name(card.base),
        license=base_license(base_readme or ""),
        base_card=BASE_CARD_NAME if base_readme is not None else None,
    )


def _value(value: Proportion | float | None, unit: str = "") -> str:
    """A table cell: counts with their Wilson 95% interval, numbers with three figures, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, Proportion):
        share = f"{value.rate:.1%}" if value.n else "none asked"
        return f"{value.count}/{value.n} ({share}; 95% interval {value.low:.1%} to {value.high:.1%})"
    number = str(value) if isinstance(value, int) else f"{value:.3g}"
    return f"{number} {plain(unit)}".rstrip()
