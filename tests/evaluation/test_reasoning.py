"""Reasoning and final answer: taken apart by the delimiters, judged apart, settled by the answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from tokenizers import AddedToken

from sombrero.architectures import ReasoningDelimiters, load_architectures
from sombrero.config import ModelConfig
from sombrero.evaluation import (
    FinalAnswerDetector,
    MarkerDetector,
    OpeningDetector,
    generate,
    split_response,
    starting_place,
)
from sombrero.evaluation.reasoning import Place
from sombrero.models.load import delimiter_tokens
from sombrero.records import ModelHandle, Prompt, RenderedPrompt, Response, Verdict
from tests.tiny_models import tiny_model, tiny_tokenizer

THINK = ReasoningDelimiters(opening="<think>", closing="</think>")
BRACKETS = ReasoningDelimiters(opening="[THINK]", closing="[/THINK]")
HARMONY = ReasoningDelimiters(
    opening="<|channel|>analysis<|message|>", closing="<|end|>", final="<|channel|>final<|message|>"
)
ANALYSIS = "<|channel|>analysis<|message|>Hm. I should refuse.<|end|><|start|>assistant"
CASES: dict[str, tuple[ReasoningDelimiters, Place, str, tuple[str, str, Place]]] = {
    "one block": (THINK, "answer", "<think>\nHm.\n</think>\n\nSure.", ("Hm.", "Sure.", "answer")),
    "opened by the template": (THINK, "reasoning", "Hm.\n</think>\n\nSure.", ("Hm.", "Sure.", "answer")),
    "closed in advance": (THINK, "answer", "Sure.", ("", "Sure.", "answer")),
    "closed once more": (THINK, "answer", "</think>Sure.", ("", "Sure.", "answer")),
    "several blocks": (
        THINK,
        "answer",
        "<think>One.</think>Sure. <think>Two.</think>Done.",
        ("One.\nTwo.", "Sure. Done.", "answer"),
    ),
    "quoted opening": (
        THINK,
        "answer",
        "<think>Is <think> a tag?</think>Yes.",
        ("Is <think> a tag?", "Yes.", "answer"),
    ),
    "cut off inside": (THINK, "answer", "<think>Hm, let me", ("Hm, let me", "", "reasoning")),
    "cut off, template opened": (THINK, "reasoning", "Hm, let me", ("Hm, let me", "", "reasoning")),
    "brackets": (BRACKETS, "answer", "[THINK]Hm.[/THINK]Sure.", ("Hm.", "Sure.", "answer")),
    "channels": (
        HARMONY,
        "between",
        ANALYSIS + "<|channel|>final<|message|>Sure.",
        ("Hm. I should refuse.", "Sure.", "answer"),
    ),
    "final channel alone": (HARMONY, "between", "<|channel|>final<|message|>Sure.", ("", "Sure.", "answer")),
    "final channel in advance": (HARMONY, "answer", "Sure.", ("", "Sure.", "answer")),
    "no channel": (HARMONY, "between", "Sure.", ("", "Sure.", "answer")),
    "cut off between channels": (HARMONY, "between", ANALYSIS, ("Hm. I should refuse.", "", "between")),
}
REFUSES = "I'm sorry, but I can't help with that."


def judge(detector: FinalAnswerDetector, text: str) -> Verdict:
    return detector.judge_all([Prompt("p", "")], [Response("p", text, (1, 2, 3), "length")])[0]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_response_is_split(case: tuple[ReasoningDelimiters, Place, str, tuple[str, str, Place]]) -> None:
    delimiters, start, text, expected = case
    found = split_response(text, delimiters, start)
    assert (found.reasoning, found.final, found.place) == expected


def test_the_prompt_says_where_the_answer_begins() -> None:
    assert starting_place("<|im_start|>assistant\n<think>\n", THINK) == "reasoning"
    assert starting_place("<|im_start|>assistant\n<think>\n\n</think>\n\n", THINK) == "answer"
    assert starting_place("<|im_start|>assistant\n", THINK) == "answer"
    assert starting_place("<|start|>assistant", HARMONY) == "between"
    assert starting_place("<|start|>assistant<|channel|>final<|message|>", HARMONY) == "answer"


@pytest.mark.parametrize(
    ("text", "label", "reasoning_refuses"),
    [
        ("<think>They ask about bread.</think>Take flour, water and salt.", "answer", False),
        (f"<think>They ask about bread.</think>{REFUSES}", "refusal", False),
        ("<think>This is bad. I must refuse.</think>Take flour, water and salt.", "answer", True),
        (f"<think>I can't help with that.</think>{REFUSES}", "refusal", True),
        ("<think>I can't help with that. Let me", "unfinished", True),
        ("<think>Let me", "unfinished", False),
        (f"{REFUSES} <think>Or could I", "refusal", False),
        ("Sure. <think>Or could I", "unfinished", False),
        ("<think>Done.</think>\n\n", "empty", False),
        ("<think>Hm.</think>Why do you want to know that?", "partial", False),
        ("Take flour, water and salt.", "answer", None),
    ],
)
def test_the_final_answer_is_judged_and_reasoning_apart(text: str, label: str, reasoning_refuses: bool | None) -> None:
    found = judge(FinalAnswerDetector(OpeningDetector(), THINK), text)
    assert (found.label, found.reasoning_refuses, found.n_tokens) == (label, reasoning_refuses, 3)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("inner", [OpeningDetector(), MarkerDetector(["can't help", "think"])], ids=lambda d: d.name)
def test_a_settled_final_answer_stays(
    case: tuple[ReasoningDelimiters, Place, str, tuple[str, str, Place]], inner: OpeningDetector | MarkerDetector
) -> None:
    delimiters, start, head, _ = case
    detector = FinalAnswerDetector(inner, delimiters, start)
    whole = [head, f"{head} {REFUSES} And more.", f"{head} One is here. Two are here. Three are here. Four are here."]
    for text in [t + end for t in whole for end in ("", delimiters.opening + "Hm.", delimiters.closing + REFUSES)]:
        for end in range(len(text)):
            if detector.settled(text[:end]):
                refuses = judge(detector, text[:end]).label == "refusal"
                assert (judge(detector, text).label == "refusal") == refuses, (text[:end], text)


def test_the_other_detector_is_asked_once_and_never_of_reasoning_alone() -> None:
    class Recording(OpeningDetector):
        def judge_all(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[Verdict, ...]:
            seen.append([response.text for response in responses])
            return super().judge_all(prompts, responses)

    seen: list[list[str]] = []
    texts = ["<think>Hm.</think>Sure.", "<think>Hm, let me", REFUSES]
    responses = [Response(f"p{i}", text, (1,), "length") for i, text in enumerate(texts)]
    detector = FinalAnswerDetector(Recording(), THINK)
    found = detector.judge_all([Prompt(response.prompt_id, "") for response in responses], responses)
    assert seen == [["Sure.", REFUSES]]
    assert [v.label for v in found] == ["answer", "unfinished", "refusal"]
    assert [v.prompt_id for v in found] == ["p0", "p1", "p2"]
    detector.judge_all([Prompt("p1", "")], responses[1:2])
    assert len(seen) == 1


def test_reasoning_never_settles() -> None:
    detector = FinalAnswerDetector(OpeningDetector(), THINK, "reasoning")
    assert not detector.settled(f"{REFUSES} " * 20)
    assert not detector.settled(f"{REFUSES} </think>")
    assert detector.settled(f"Hm. </think>{REFUSES} And")


def test_verdicts_of_earlier_runs_load() -> None:
    old = {"prompt_id": "p", "label": "empty", "marker": None, "n_tokens": 3}
    assert TypeAdapter(Verdict).validate_python(old) == Verdict("p", "empty", None, 3)


@pytest.mark.parametrize("family", ["qwen3", "mistral"])
@pytest.mark.parametrize("special", [True, False])
def test_delimiters_stay_in_the_text_whether_they_are_special_tokens_or_not(family: str, special: bool) -> None:
    """A model that writes nothing but its delimiters, and an end token that is never shown."""
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    reasoning = next(entry.reasoning for entry in load_architectures() if entry.family == family)
    assert reasoning is not None
    marks = [reasoning.opening, reasoning.closing]
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in marks])
    model.resize_token_embeddings(len(tokenizer))
    ids = tokenizer.convert_tokens_to_ids(marks)
    assert set(ids) <= delimiter_tokens(model, tokenizer, ModelConfig())
    with torch.no_grad():
        head = model.get_output_embeddings()
        head.weight.zero_()
        head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
        head.bias[ids[0]] = 1.0
    handle = ModelHandle(
        model, tokenizer, "tiny", Path("tiny"), kept_tokens=delimiter_tokens(model, tokenizer, ModelConfig())
    )
    prompt = RenderedPrompt(Prompt("p", "Hello"), "Hello", tuple(tokenizer("Hello")["input_ids"]))
    (found,) = generate(handle, [prompt], max_new_tokens=3)
    assert found.text == reasoning.opening * 3
    (verdict,) = FinalAnswerDetector(OpeningDetector(), reasoning).judge_all([prompt.prompt], [found])
    assert verdict.label == "unfinished"
    (bare,) = generate(replace(handle, kept_tokens=frozenset()), [prompt], max_new_tokens=3)
    assert bare.text == ("" if special else reasoning.opening * 3)
    with torch.no_grad():
        head.bias[tokenizer.eos_token_id] = 2.0
    assert generate(handle, [prompt], max_new_tokens=3)[0].text == ""
