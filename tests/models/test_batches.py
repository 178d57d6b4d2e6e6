from pathlib import Path

import pytest
import torch
from tests.planned import plan
from tests.tiny_models import FAMILIES

from sombrero.models.batches import Forward, common_prefix, prepare_batch, token_batches


def test_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [5, 50, 7, 7, 49, 6, 300]
    batches = list(token_batches(lengths, 100))
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 100 for b in batches)


@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        ([[1, 2, 3], [1, 2, 4]], 9 - 7, 2),
        ([[1, 2], [1, 2]], 1, 1),
        ([[2, 1], [1, 1]], 1, 0),
        ([[1]], 0, 0),
        ([[7]], -3, 0),
    ],
)
def test_common_prefix(rows: list[list[int]], limit: int, expected: int) -> None:
    assert common_prefix(rows, limit) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_last", [1, 3])
@pytest.mark.parametrize("n_new", [None, 5])
def test_a_shared_beginning_changes_no_logit(family: str, n_last: int, n_new: int | None, tmp_path: Path) -> None:
    """Rows of several lengths with a template's beginning in common, against each row alone and whole."""
    planned = plan(family, tmp_path)
    rows = [p.token_ids for p in planned.harmful_prompts]
    with torch.inference_mode():
        batch = prepare_batch(planned.handle, rows, n_last=n_last, n_new=n_new)
        found = Forward(planned.handle.model).last_logits(batch, n_last)
        alone = [planned.handle.model(input_ids=torch.tensor([row])).logits[0, -n_last:] for row in rows]
    # a sliding window's cache is not shared: those rows are run whole
    assert batch.n_prefix == 0 if family == "mistral" else batch.n_prefix >= 8
    assert (batch.cache is None) == (batch.n_prefix == 0 and n_new is None)
    assert torch.allclose(found, torch.stack(alone), atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_beginning_that_is_known_is_not_run_again(family: str, tmp_path: Path) -> None:
    """Also by a single row, by rows that leave the known beginning before its end, and never by rows that lack it."""
    planned = plan(family, tmp_path)
    rows = [p.token_ids for p in planned.harmful_prompts]
    others = [rows[3], (*rows[0][:9], *rows[5][12:]), (*range(60, 70), *rows[2])]
    with torch.inference_mode():
        beginning = prepare_batch(planned.handle, rows[:3], n_new=5).beginning
        assert beginning is not None
        for batch_rows, expected in (([rows[1]], 24), ([rows[3]], 15), (others[:2], 9), (others, 0)):
            batch = prepare_batch(planned.handle, batch_rows, n_new=5, beginning=beginning)
            found = Forward(planned.handle.model).last_logits(batch, 1)[:, 0]
            alone = [planned.handle.model(input_ids=torch.tensor([row])).logits[0, -1] for row in batch_rows]
            assert torch.allclose(found, torch.stack(alone), atol=1e-4)
            assert batch.n_prefix == expected
            assert (batch.beginning is beginning) == (expected > 0)
