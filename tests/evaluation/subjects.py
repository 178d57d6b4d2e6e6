"""Tiny models, prompts of several lengths and live edits, as the rooms of evaluation take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from sombrero.records import ModelHandle, Prompt, RenderedPrompt, Subject
from tests.tiny_models import tiny_model, tiny_tokenizer

LENGTHS = (5, 11, 3, 11, 1, 24, 8, 17, 2, 6, 13, 9)


def tiny_handle(family: str = "llama", *, seed: int = 0) -> ModelHandle:
    return ModelHandle(tiny_model(family, seed=seed), tiny_tokenizer(), f"tiny-{family}", Path("tiny"))


def random_prompts(kind: str = "p", *, seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> tuple[RenderedPrompt, ...]:
    """Prompts of random bytes; ``kind`` starts their ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = [tuple(torch.randint(0, 256, (n,), generator=generator).tolist()) for n in lengths]
    return tuple(RenderedPrompt(Prompt(f"{kind}{i}", f"{kind} {i}"), "", row) for i, row in enumerate(ids))


def as_subject(handle: ModelHandle) -> Subject:
    return lambda: nullcontext(handle)


class LiveSubjects:
    """One model as base and as edited (a hook that scales an MLP's output), which notes if both are ever open."""

    def __init__(self, handle: ModelHandle, factor: float = 0.5) -> None:
        self.handle = handle
        self.factor = factor
        self.open: list[str] = []
        self.entered: list[str] = []

    def base(self) -> Any:
        return self._entered("base")

    def edited(self) -> Any:
        return self._entered("edited")

    @contextmanager
    def _entered(self, name: str) -> Iterator[ModelHandle]:
        assert not self.open, f"{name} was entered while {self.open} was open"
        self.open.append(name)
        self.entered.append(name)
        hooks = []
        if name == "edited":
            mlp = self.handle.model.get_submodule("model.layers.1.mlp")
            hooks.append(mlp.register_forward_hook(lambda _module, _args, output: output * self.factor))
        try:
            yield self.handle
        finally:
            for hook in hooks:
                hook.remove()
            self.open.remove(name)
