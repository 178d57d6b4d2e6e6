"""Rows of different lengths in one batch are answered as each by itself, whatever layers the architecture has."""

from __future__ import annotations

from pathlib import Path

import pytest

from sombrero.evaluation import generate
from sombrero.records import ModelHandle
from tests.planned import rendered
from tests.tiny_architectures import tiny_architecture
from tests.tiny_models import tiny_tokenizer

TEXTS = ("Paint it", "Take the purse of a man", "Sing", "What is the time in Rome now?", "Go", "Open the door for Ann")
MIXED = ("qwen3_5 (multimodal)", "granitemoehybrid", "lfm2", "nemotron_h", "falcon_h1", "gpt_oss")


@pytest.mark.parametrize("name", MIXED)
def test_a_batch_is_answered_as_its_rows_are(name: str) -> None:
    handle = ModelHandle(tiny_architecture(name, seed=1), tiny_tokenizer(), name, Path())
    prompts = rendered(TEXTS, "p")

    whole = [generate(handle, [prompt], max_new_tokens=12)[0].text for prompt in prompts]
    leaving = {text for text in whole if text != whole[0]}

    def settled(text: str) -> bool:  # so that some rows leave before others
        return any(answer.startswith(text) for answer in leaving) and not whole[0].startswith(text)

    together = generate(handle, prompts, max_new_tokens=12, batch_size=6, settled=settled)
    alone = [generate(handle, [prompt], max_new_tokens=12, settled=settled)[0] for prompt in prompts]
    assert len({len(answer.token_ids) for answer in together}) > 1
    assert [answer.token_ids for answer in together] == [answer.token_ids for answer in alone]
