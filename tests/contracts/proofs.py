"""What is proved of every described architecture, on a tiny random model of its class in its real checkpoint format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import torch
from transformers import PreTrainedModel

from sombrero.checkpoints import bake, verify_untouched
from sombrero.edits import account_residuals, bakeable_kinds, check_leak, live_edit, refused_kinds
from sombrero.records import EditParameters, LayerProfile, ModelEdit, RuleName, Writer, WriterKind
from tests.planned import Planned, plan_model
from tests.tiny_architectures import TINY, save_tiny_architecture

RULES: tuple[RuleName, ...] = get_args(RuleName)
ACCOUNTING, LIVE_BAKED, LEAK = 1e-5, 1e-4, 1e-4
STRENGTH = 0.7
N_PROMPTS = 3
"""Prompts of each role whose logits are compared."""
N_TOKENS = 4
_folders = TemporaryDirectory(prefix="sombrero-architectures-")


@dataclass(frozen=True)
class RuleProof:
    """One rule: the kinds of writers that it was baked into, the reasons for the others, and what was measured.

    error: largest difference of a log-prob, live to baked. moved: that of the edit to the untouched model.
    same_tokens: greedy generation of the reloaded bake gives what the live-edited model gives.
    """

    kinds: tuple[WriterKind, ...]
    refused: dict[WriterKind, str]
    error: float = 0.0
    moved: float = 0.0
    same_tokens: bool = True
    n_tokens: int = 0


@dataclass(frozen=True)
class Proof:
    """Everything that is proved of one entry of ``TINY``. untouched: tensors that a bake left bit for bit."""

    name: str
    writers: tuple[Writer, ...]
    accounting: float
    rules: dict[RuleName, RuleProof]
    leak: float
    leak_end_to_end: float
    leak_layers: int
    untouched: int


@cache
def prove(name: str) -> Proof:
    """Run all proofs of an entry of ``TINY``."""
    folder = save_tiny_architecture(name, Path(_folders.name) / name.replace(" ", "_"))
    planned = plan_model(_load(name, folder), folder)
    probe = (*planned.harmful_prompts[:N_PROMPTS], *planned.harmless_prompts[:N_PROMPTS])
    accounts = account_residuals(planned.handle, planned.architecture, planned.writers, probe)
    every = planned.planner.build(_parameters(planned, "project", 1.0, ("attention", "mlp")))
    leaks = check_leak(
        planned.handle, planned.architecture, planned.writers, every, planned.harmful_prompts[:N_PROMPTS]
    )
    untouched = _log_probs(planned.handle.model, planned)
    rules: dict[RuleName, RuleProof] = {}
    n_untouched = 0
    for rule in RULES:
        refused = refused_kinds(rule, planned.writers)
        kinds: tuple[WriterKind, ...] = tuple(sorted(bakeable_kinds(rule, planned.writers)))
        rules[rule] = RuleProof(kinds, refused)
        if kinds:
            edit = planned.planner.build(_parameters(planned, rule, STRENGTH, kinds))
            rules[rule], n_untouched = _prove_rule(name, planned, edit, rules[rule], untouched, folder / rule)
    return Proof(
        name,
        planned.writers,
        max(entry.relative_error for entry in accounts),
        rules,
        max(leak.ratio for leak in leaks),
        max(leak.end_to_end for leak in leaks),
        len(leaks),
        n_untouched,
    )


def _prove_rule(
    name: str, planned: Planned, edit: ModelEdit, rule: RuleProof, untouched: torch.Tensor, out: Path
) -> tuple[RuleProof, int]:
    with live_edit(planned.handle, planned.writers, edit):
        live = _log_probs(planned.handle.model, planned)
        tokens = _greedy(planned.handle.model, planned)
    out = planned.handle.folder.with_name(f"{planned.handle.folder.name}-{out.name}")
    report = bake(planned.handle.folder, edit, planned.writers, out, provenance={"test": "architectures"})
    kept = verify_untouched(planned.handle.folder, out, report.edited).untouched
    model = _load(name, out)
    error = float((_log_probs(model, planned) - live).abs().max())
    found = _greedy(model, planned)
    moved = float((live - untouched).abs().max())
    return RuleProof(rule.kinds, rule.refused, error, moved, torch.equal(found, tokens), found.shape[-1]), len(kept)


def _load(name: str, folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = TINY[name].model_class.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def _parameters(planned: Planned, rule: RuleName, strength: float, kinds: tuple[WriterKind, ...]) -> EditParameters:
    last = max(writer.layer for writer in planned.writers)
    return EditParameters(rule, "som", None, (0, 1), dict.fromkeys(kinds, LayerProfile(0, last, strength)))


def _log_probs(model: PreTrainedModel, planned: Planned) -> torch.Tensor:
    """Log-probs ``(prompts, vocabulary)`` at the last token, one prompt after the other: padding plays no part."""
    prompts = (*planned.harmful_prompts[:N_PROMPTS], *planned.harmless_prompts[:N_PROMPTS])
    with torch.inference_mode():
        rows = [model(input_ids=torch.tensor([prompt.token_ids])).logits[0, -1] for prompt in prompts]
    return torch.stack(rows).float().log_softmax(-1)


def _greedy(model: PreTrainedModel, planned: Planned) -> torch.Tensor:
    """Tokens that the library's own greedy generation gives after one prompt."""
    ids = torch.tensor([planned.harmful_prompts[0].token_ids])
    with torch.inference_mode():
        found = model.generate(ids, max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS, do_sample=False)
    return found[0, ids.shape[1] :]
