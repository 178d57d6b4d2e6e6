"""Greedy answers equal the library's own, whatever the batch; rows end when they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from sombrero.errors import PromptError, UsageError
from sombrero.evaluation import MarkerDetector, generate
from sombrero.evaluation.generate import CHECK_EVERY, end_tokens
from sombrero.evaluation.row_batch import RowBatch
from sombrero.records import ModelHandle, Prompt, RenderedPrompt, Response
from tests.evaluation.subjects import random_prompts, tiny_handle
from tests.tiny_models import FAMILIES

N_NEW = 22


def library_answers(handle: ModelHandle, prompts: tuple[RenderedPrompt, ...], n_new: int = N_NEW) -> list[list[int]]:
    """One prompt at a time through ``model.generate``, cut after the first end token."""
    ends = sorted(end_tokens(handle))
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt.token_ids])
        output = handle.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new, do_sample=False, eos_token_id=ends
        )
        answers.append(output[0, ids.shape[1] :].tolist())
    return answers


def frequent_token(handle: ModelHandle, prompts: tuple[RenderedPrompt, ...]) -> int:
    """A token that some answers hold in the middle: made an end token, it ends rows at different steps."""
    answers = generate(handle, prompts, max_new_tokens=N_NEW)
    counts = Counter(token for answer in answers for token in set(answer.token_ids[2:-2]))
    return next(token for token, count in counts.most_common() if count < len(answers) - 2)


def with_beginning(prompts: tuple[RenderedPrompt, ...], n: int) -> tuple[RenderedPrompt, ...]:
    """The prompts behind the same ``n`` tokens, as a chat template gives them."""
    return tuple(replace(p, token_ids=(*range(40, 40 + n), *p.token_ids)) for p in prompts)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_the_library(family: str) -> None:
    handle, prompts = tiny_handle(family), random_prompts()
    expected = library_answers(handle, prompts)
    for batch_size in (1, 3, 64):
        found = generate(handle, prompts, max_new_tokens=N_NEW, batch_size=batch_size)
        assert [list(answer.token_ids) for answer in found] == expected
        assert [answer.prompt_id for answer in found] == [prompt.prompt.id for prompt in prompts]


@pytest.mark.parametrize("shared", [0, 12])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_join_are_answered_as_if_alone(family: str, shared: int) -> None:
    """Rows end at different steps, and others take their places, behind a shared beginning and without one."""
    handle, prompts = tiny_handle(family), with_beginning(random_prompts(), shared)
    handle.model.generation_config.eos_token_id = [frequent_token(handle, prompts), 258]
    expected = library_answers(handle, prompts)
    shapes: list[tuple[int, int]] = []
    handle.model.register_forward_pre_hook(
        lambda _model, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    counts = {}
    for refill in (True, False):
        for batch_size in (1, 3, 7, 64):
            shapes.clear()
            found = generate(handle, prompts, max_new_tokens=N_NEW, batch_size=batch_size, refill=refill)
            assert [list(answer.token_ids) for answer in found] == expected
            counts[refill, batch_size] = len(shapes)
            assert max(n_rows for n_rows, _ in shapes) <= batch_size
    if family != "mistral":  # its sliding layers take no others in
        assert counts[True, 3] < counts[False, 3]


def test_an_answer_does_not_depend_on_who_else_is_asked() -> None:
    """Looks come at a row's own steps, so even where it was cut short is its own."""
    handle, prompts = tiny_handle(), with_beginning(random_prompts(), 12)
    handle.model.generation_config.eos_token_id = frequent_token(handle, prompts)

    def settled(text: str) -> bool:
        return len(set(text)) > 9

    expected = generate(handle, prompts, max_new_tokens=N_NEW, batch_size=1, settled=settled)
    assert "settled" in {answer.stopped for answer in expected}
    for batch_size in (2, 3, 5, 64):
        assert generate(handle, prompts, max_new_tokens=N_NEW, batch_size=batch_size, settled=settled) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_end_leave_the_others_alone(family: str) -> None:
    handle, prompts = tiny_handle(family), random_prompts()
    handle.model.generation_config.eos_token_id = [frequent_token(handle, prompts), 258]
    found = generate(handle, prompts, max_new_tokens=N_NEW)
    assert [list(answer.token_ids) for answer in found] == library_answers(handle, prompts)
    stopped = {answer.stopped for answer in found}
    assert stopped == {"end", "length"}
    for answer in found:
        assert (answer.token_ids[-1] in end_tokens(handle)) == (answer.stopped == "end")
        assert answer.stopped == "end" or len(answer.token_ids) == N_NEW


def test_a_sliding_window_is_respected() -> None:
    handle, prompts = tiny_handle("mistral"), random_prompts()
    handle.model.config.sliding_window = 6
    handle.model.generation_config.eos_token_id = frequent_token(handle, prompts)
    found = generate(handle, prompts, max_new_tokens=N_NEW)
    assert [list(answer.token_ids) for answer in found] == library_answers(handle, prompts)


def test_settings_of_the_generation_configuration_are_not_applied() -> None:
    plain, prompts = tiny_handle(), random_prompts()
    expected = generate(plain, prompts, max_new_tokens=N_NEW)
    plain.model.generation_config.update(
        repetition_penalty=1.7, do_sample=True, temperature=3.0, no_repeat_ngram_size=2, min_new_tokens=9
    )
    assert generate(plain, prompts, max_new_tokens=N_NEW) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_call_gives_the_same_answers(dtype: torch.dtype) -> None:
    handle, prompts = tiny_handle(), random_prompts()
    handle.model.to(dtype)
    assert generate(handle, prompts, max_new_tokens=9) == generate(handle, prompts, max_new_tokens=9)


def test_a_settled_row_ends_early_and_is_a_prefix() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    full = {answer.prompt_id: answer for answer in generate(handle, prompts, max_new_tokens=N_NEW)}
    vowel = sorted(Counter(c for a in full.values() for c in set(a.text)).items(), key=lambda item: (-item[1], item[0]))
    letter = next(c for c, count in vowel if count < len(full) and c != "\ufffd")

    def has_letter(text: str) -> bool:
        return letter in text

    early = generate(handle, prompts, max_new_tokens=N_NEW, settled=has_letter)
    assert {answer.stopped for answer in early} >= {"settled", "length"}
    for answer in early:
        whole = full[answer.prompt_id]
        assert has_letter(answer.text) == has_letter(whole.text)
        assert whole.token_ids[: len(answer.token_ids)] == answer.token_ids
        if answer.stopped == "settled":
            assert len(answer.token_ids) % CHECK_EVERY == 0
        else:
            assert answer == whole


def test_every_prompt_may_have_its_own_look_at_its_text() -> None:
    handle, prompts = tiny_handle(), random_prompts(lengths=(5, 40, 9, 31, 12, 60))
    whole = generate(handle, prompts, max_new_tokens=12)
    looks = [(lambda text: True) if place % 2 else None for place in range(len(prompts))]
    found = generate(handle, prompts, max_new_tokens=12, settled=looks, batch_size=2)
    for place, (answer, full) in enumerate(zip(found, whole, strict=True)):
        assert answer.prompt_id == full.prompt_id
        kept = full.token_ids[:4] if place % 2 else full.token_ids
        assert answer.token_ids == kept
    with pytest.raises(UsageError, match="1 settled for 6 prompts"):
        generate(handle, prompts, settled=[None])


def test_prompts_of_other_lengths_wait_for_the_next_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    handle, prompts = tiny_handle(), random_prompts(lengths=(60, 58, 20, 19, 18, 5))
    whole = generate(handle, prompts, max_new_tokens=6)
    monkeypatch.setitem(generate.__globals__, "PASS_TOKENS", 20)
    sizes: list[tuple[int, int]] = []
    admit = RowBatch.admit

    def noted(batch: RowBatch, rows: Sequence[Sequence[int]], kept: Sequence[int]) -> list[int]:
        sizes.append((len(rows), len(kept)))
        return admit(batch, rows, kept)

    monkeypatch.setattr(RowBatch, "admit", noted)
    assert generate(handle, prompts, max_new_tokens=6) == whole
    assert sizes == [(2, 0), (3, 2), (1, 5)]


def test_half_a_character_is_not_shown_to_settled() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    seen: list[str] = []
    generate(handle, prompts, max_new_tokens=8, settled=lambda text: bool(seen.append(text)))
    assert seen and not any(text.endswith("\ufffd") for text in seen)


def test_progress_counts_every_prompt_once() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    handle.model.generation_config.eos_token_id = frequent_token(handle, prompts)
    counts: list[int] = []
    generate(handle, prompts, max_new_tokens=N_NEW, batch_size=5, on_progress=counts.append)
    assert sum(counts) == len(prompts) and min(counts) > 0


def test_special_tokens_are_not_text() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    handle.model.generation_config.eos_token_id = frequent_token(handle, prompts)
    for answer in generate(handle, prompts, max_new_tokens=N_NEW):
        assert answer.text == handle.tokenizer.decode(answer.token_ids, skip_special_tokens=True)


def test_nothing_asked_nothing_answered() -> None:
    assert generate(tiny_handle(), ()) == ()


def test_wrong_arguments_are_said() -> None:
    handle, prompts = tiny_handle(), random_prompts()
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        generate(handle, prompts, max_new_tokens=0)
    with pytest.raises(UsageError, match="batch_size 0"):
        generate(handle, prompts, batch_size=0)
    empty = RenderedPrompt(Prompt("void", ""), "", ())
    with pytest.raises(PromptError, match="'void' has no tokens"):
        generate(handle, [empty])
    long = replace(prompts[0], token_ids=(1,) * 500)
    with pytest.raises(PromptError, match="context of 512"):
        generate(handle, [long], max_new_tokens=13)


@pytest.mark.parametrize("family", FAMILIES)
def test_verdicts_equal_those_of_the_library_row_by_row(family: str) -> None:
    """Early exit, dropped rows, sorted lengths and a shared prefix change no verdict of plain full-length greedy."""
    handle, prompts = tiny_handle(family), random_prompts()
    prompts = with_beginning(prompts, 12)
    handle.model.generation_config.eos_token_id = [frequent_token(handle, prompts), 258]
    plain = [handle.tokenizer.decode(ids, skip_special_tokens=True) for ids in library_answers(handle, prompts)]
    counts = Counter(character for text in plain for character in set(text) - {"\ufffd"})
    early = {character for text in plain if len(text) > N_NEW // 2 for character in text[: N_NEW // 3]} & counts.keys()
    marker = min(early, key=lambda character: (abs(counts[character] - len(plain) / 2), character))
    detector = MarkerDetector((marker,))
    expected = [
        detector.judge(Response(p.prompt.id, t, (), "length")).label for p, t in zip(prompts, plain, strict=True)
    ]
    assert "refusal" in expected and set(expected) != {"refusal"}
    for batch_size in (1, 3, 4, 64):
        found = generate(handle, prompts, max_new_tokens=N_NEW, batch_size=batch_size, settled=detector.settled)
        assert [detector.judge(answer).label for answer in found] == expected
    assert {answer.stopped for answer in found} >= {"settled"}
