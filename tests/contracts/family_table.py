"""Write docs/architectures.md from the proofs: ``python -m tests.contracts.family_table``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sombrero.architectures import known_classes
from sombrero.records import Writer
from tests.contracts.proofs import ACCOUNTING, LEAK, LIVE_BAKED, N_TOKENS, RULES, Proof, RuleProof, prove
from tests.tiny_architectures import TINY

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
INTRODUCTION = """\
# Architectures

Each family is one file in `src/sombrero/architectures/data`. What is proved of it is proved by the test suite on a tiny
random model of the true Hugging Face class, saved and loaded as a real checkpoint, so with the renaming and joining of
tensors that the library does at load. This page is written by `python -m tests.contracts.family_table`, and a test
fails where it does not say what the proofs give. Your own architecture: [add_architecture.md](add_architecture.md).
"""
LEGEND = f"""\
- **writers**: what writes to the residual stream in the tiny model, by kind. Behind a norm (*norm*), times a number of
  the configuration (*scale*), times a gate (*gate*), with a bias in every layer (*bias*).
- **accounting**: in every layer the writers sum to what the layer adds, within {ACCOUNTING:g}.
- **project … guarded**: a live edit by the rule and the baked checkpoint, loaded again, give the same log-probs within
  {LIVE_BAKED:g}. `attention` or `mlp` alone: the rule is refused for the other kind, for the reason said. *experts*:
  experts that one module holds show neither their inputs nor, apart, their rows; `project` and `compose` act on what
  they write, and are exact. *no bias*: `affine` adds a constant, and there is no bias tensor to hold it.
- **leak**: after `project` at strength 1 of all writers, every layer writes at most {LEAK:g} of the component, both
  with the untouched model's stream and in the edited model as it runs.
- **untouched**: all tensors that the edit does not name are the same bytes after the bake.
- **generation**: each bake, loaded again, generates the same {N_TOKENS} greedy tokens as the live-edited model.

Experts that no prompt reached are edited like all others: a rule that acts on outputs treats them alike, and needs no
prompt for it. A run counts them in its manifest, and records how far the edit moved the router's logits.
"""
MISSING = """\
## Not described

- Gemma 3n: its layers keep four streams (AltUp), so there is no one residual stream to account for.
- Tensors in blocks (MXFP4, FP8, GGUF) are a matter of the checkpoint's format, not of the architecture.
- Reasoning delimiters are one pair for each family. A model that was trained with others, for example one of the class
  `MistralForCausalLM` that does not write `[THINK]`, has its reasoning judged as part of its answer.
"""


def render(proofs: Sequence[Proof]) -> str:
    """The whole page."""
    header = ["model", "family", "class", "writers", "accounting", *RULES, "leak", "untouched", "generation"]
    rule = ["---"] * len(header)
    rows = ["| " + " | ".join(cells) + " |" for cells in (header, rule)] + [render_row(proof) for proof in proofs]
    return "\n".join([INTRODUCTION, *rows, "", LEGEND, MISSING]).rstrip("\n") + "\n"


def render_row(proof: Proof) -> str:
    """The row of one model."""
    name = TINY[proof.name].model
    cells = [
        proof.name,
        known_classes()[name],
        f"`{name}`",
        "; ".join(_writers(proof.writers, kind) for kind in ("attention", "mlp")),
        _verdict(proof.accounting <= ACCOUNTING),
        *(_rule(proof.rules[rule], proof.writers) for rule in RULES),
        _verdict(max(proof.leak, proof.leak_end_to_end) <= LEAK),
        _verdict(proof.untouched > 0),
        _verdict(all(rule.same_tokens and rule.n_tokens == N_TOKENS for rule in proof.rules.values() if rule.kinds)),
    ]
    return "| " + " | ".join(cells) + " |"


def _writers(writers: Sequence[Writer], kind: str) -> str:
    found: dict[str, list[Writer]] = {}
    for writer in writers:
        if writer.kind == kind:
            found.setdefault(writer.module_path.split(f".{writer.layer}.", 1)[1], []).append(writer)
    return f"{kind}: " + ", ".join(f"`{path}`{_remarks(of_path)}" for path, of_path in found.items())


def _remarks(writers: Sequence[Writer]) -> str:
    first = writers[0]
    remarks = [
        f"{first.n_experts} experts" if first.n_experts is not None else "",
        "transposed" if first.layout in ("conv1d", "experts_in_out") else "",
        "norm" if first.post_norms else "",
        "scale" if first.scale != 1.0 else "",
        "gate" if first.gate_path is not None else "",
        "bias" if first.bias_name is not None else "",
    ]
    kept = [remark for remark in remarks if remark]
    return f" ({', '.join(kept)})" if kept else ""


def _rule(rule: RuleProof, writers: Sequence[Writer]) -> str:
    fused = {writer.kind for writer in writers if writer.n_experts is not None}
    reasons = sorted({"experts" if kind in fused else "no bias" for kind in rule.refused})
    if not rule.kinds:
        return f"refused: {', '.join(reasons)}"
    verdict = _verdict(rule.error <= LIVE_BAKED)
    if not rule.refused:
        return verdict
    return f"{verdict}: {', '.join(rule.kinds)}; {', '.join(rule.refused)} refused: {', '.join(reasons)}"


def _verdict(passed: bool) -> str:
    return "pass" if passed else "FAIL"


if __name__ == "__main__":
    DOCUMENT.write_text(render([prove(name) for name in TINY]), encoding="utf-8")
