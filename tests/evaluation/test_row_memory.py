"""Batches keep to the memory there is, and an answer is not lost when there is less than was thought."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sombrero.errors import PromptError
from sombrero.evaluation import generate, row_memory
from sombrero.evaluation.row_memory import free_bytes, is_out_of_memory, row_bytes, rows_that_fit
from sombrero.records import ModelHandle
from tests.evaluation.subjects import random_prompts, tiny_handle

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"


class Narrow:
    """A forward pre-hook: the model has memory for so many rows. Notes how many rows it was given."""

    def __init__(self, handle: ModelHandle, n_rows: int, error: RuntimeError) -> None:
        self.n_rows, self.error = n_rows, error
        self.seen: list[int] = []
        handle.model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, _model: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self.seen.append(len(kwargs["input_ids"]))
        if self.seen[-1] > self.n_rows:
            raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), RuntimeError(CPU_ERROR)])
@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_a_batch_that_does_not_fit_is_halved(n_rows: int, error: RuntimeError) -> None:
    expected = generate(tiny_handle(), random_prompts(), max_new_tokens=9)
    handle, counts = tiny_handle(), []
    narrow = Narrow(handle, n_rows, error)
    assert generate(handle, random_prompts(), max_new_tokens=9, on_progress=counts.append) == expected
    assert max(narrow.seen) == len(expected) and sum(counts) == len(expected)
    failures = [n for n in narrow.seen if n > n_rows]
    assert failures == {1: [12, 6, 3], 2: [12, 6, 3], 5: [12, 6]}[n_rows] and narrow.seen[-1] <= n_rows


def test_what_is_answered_stays_when_memory_runs_out_later() -> None:
    """The limit falls while rows are under way: those start again, and what had ended is not asked for again."""
    expected = generate(tiny_handle(), random_prompts(), max_new_tokens=9, batch_size=4)
    handle, counts = tiny_handle(), []
    narrow = Narrow(handle, 4, torch.OutOfMemoryError("no"))

    def less_after_the_first(n_ended: int) -> None:
        counts.append(n_ended)
        narrow.n_rows = 2

    found = generate(handle, random_prompts(), max_new_tokens=9, batch_size=4, on_progress=less_after_the_first)
    assert found == expected and sum(counts) == len(expected)
    assert sum(n == 4 for n in narrow.seen) < 2 * 9  # one batch of four, and the one that failed


def test_one_row_that_does_not_fit_is_named() -> None:
    handle = tiny_handle()
    Narrow(handle, 0, torch.OutOfMemoryError("no"))
    with pytest.raises(PromptError, match="'p5' has 24 tokens, and with 9 more it does not fit into memory"):
        generate(handle, random_prompts(), max_new_tokens=9)


def test_other_errors_are_not_taken_for_it() -> None:
    handle = tiny_handle()
    narrow = Narrow(handle, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        generate(handle, random_prompts(), max_new_tokens=9)
    assert len(narrow.seen) == 1


def test_rows_follow_from_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = tiny_handle()
    one = row_bytes(handle.model, 24, 9)
    for free, expected in ((None, 64), (0, 1), (3.1 * one / row_memory.FREE_SHARE, 3), (1e12, 64)):
        monkeypatch.setattr(row_memory, "free_bytes", lambda _device, free=free: free)
        assert rows_that_fit(handle.model, longest=24, n_new=9, at_most=64) == expected
    monkeypatch.setattr(row_memory, "free_bytes", lambda _device: int(2.5 * one / row_memory.FREE_SHARE))
    narrow = Narrow(handle, 2, torch.OutOfMemoryError("no"))
    generate(handle, random_prompts(), max_new_tokens=9)
    assert max(narrow.seen) == 2


def test_a_row_needs_what_its_cache_holds() -> None:
    """Keys and values of 4 layers, 2 heads of width 8, in float32, are the least of it; halves need half."""
    handle = tiny_handle()
    assert row_bytes(handle.model, 24, 9) > 2 * 4 * 2 * 8 * 4 * (24 + 9)
    assert row_bytes(handle.model, 24, 9) == 2 * row_bytes(handle.model.to(torch.bfloat16), 24, 9)


def test_the_processor_says_what_is_free() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is None or free > 0
    assert free_bytes(torch.device("meta")) is None


def test_running_out_is_recognised() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError(CPU_ERROR)) and is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("no")) and not is_out_of_memory(ValueError("out of memory"))
