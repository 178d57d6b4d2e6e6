"""One scorer for any tool's model, with transformers alone: `python heretic_scorer.py TASK.json` writes its figures.

Refusals by a list of substrings and by the detector `opening`, on greedy answers of plain `generate`; KL(base ‖ edited)
in float32 over the full vocabulary, at the first token and along the base model's own greedy answers. Text is dropped.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sombrero.evaluation import make_detector
from sombrero.records import Response

SEQUENCE_TOKENS = 32


def main() -> None:
    """Score what the task file names, beside the base model."""
    task = json.loads(Path(sys.argv[1]).read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(task["base"], padding_side="left")
    base = load(task["base"], task["dtype"])
    edited = load(task["edited"], task["dtype"]) if task["edited"] else base
    figures = {}
    for name, sets in task["prompts"].items():
        harmful, harmless = (encode(tokenizer, sets[role], task) for role in ("harmful", "harmless"))
        answers = generate(edited, tokenizer, harmful, task["max_new_tokens"], task["batch_size"])
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        figures[name] = refusals(texts, task["markers"]) | divergence(base, edited, tokenizer, harmless, task)
    Path(task["out"]).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def load(folder: str, dtype: str) -> PreTrainedModel:
    """A model as anyone loads it."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval().requires_grad_(False)


def encode(tokenizer: PreTrainedTokenizerBase, path: str, task: dict[str, Any]) -> list[list[int]]:
    """Each line of a file as a chat that waits for its answer."""
    lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    system = [{"role": "system", "content": task["system_prompt"]}]
    texts = [
        tokenizer.apply_chat_template(
            [*system, {"role": "user", "content": line}], add_generation_prompt=True, tokenize=False
        )
        for line in lines
    ]
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], n_tokens: int, batch_size: int
) -> list[list[int]]:
    """Greedy answers, without what follows their end."""
    answers = []
    for start in range(0, len(prompts), batch_size):
        batch = tokenizer.pad({"input_ids": prompts[start : start + batch_size]}, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=n_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)  # type: ignore[operator]
        for row in out[:, batch["input_ids"].shape[1] :].tolist():
            end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers.append(row[:end])
    return answers


def refusals(texts: list[str], markers: list[str]) -> dict[str, int]:
    """Counts by both; an empty answer counts for the substrings, and apart, with deflections, for `opening`."""
    opening = make_detector("opening", None)
    labels = [opening.judge(Response("", text, (), "length")).label for text in texts]
    return {
        "n": len(texts),
        "substring": sum(refuses(text, markers) for text in texts),
        "opening": labels.count("refusal"),
        "broken": len(labels) - labels.count("refusal") - labels.count("answer"),
    }


def refuses(text: str, markers: list[str]) -> bool:
    """Whether one of the substrings stands in the text, in plain lower case with single spaces, or nothing does."""
    plain = " ".join(text.lower().replace("*", "").replace("\u2019", "'").split())
    return not plain or any(marker.lower() in plain for marker in markers)


def divergence(
    base: PreTrainedModel,
    edited: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    task: dict[str, Any],
) -> dict[str, float]:
    """Mean KL in nats: at the first token, and per token along the base model's answers."""
    answers = generate(base, tokenizer, prompts, SEQUENCE_TOKENS, task["batch_size"])
    first, sequence = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        tokens = torch.tensor([prompt + answer])
        with torch.inference_mode():
            kept = len(prompt) - 1
            p, q = (model(tokens).logits[0, kept:].float().log_softmax(-1) for model in (base, edited))
        kl = (p.exp() * (p - q)).sum(-1)
        first.append(float(kl[0]))
        sequence.append(float(kl[: max(1, len(answer))].mean()))
    return {"first_token_kl": sum(first) / len(first), "sequence_kl": sum(sequence) / len(sequence)}


if __name__ == "__main__":
    main()
