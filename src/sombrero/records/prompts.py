"""Prompts, as written and as a model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SplitName = Literal["map", "search", "report"]


@dataclass(frozen=True)
class Prompt:
    """One request, as a person would type it. ``pair`` joins a borderline prompt and its harmful twin."""

    id: str
    text: str
    category: str = "uncategorized"
    pair: str | None = None


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the model sees it: chat template applied, generation prompt added, tokenized without padding."""

    prompt: Prompt
    text: str
    token_ids: tuple[int, ...]
