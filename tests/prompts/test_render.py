"""Rendering: what the model sees is the template's text, ends where the answer begins, and loses nothing on the way."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sombrero.errors import ModelError, PromptError
from sombrero.prompts import render, render_conversation
from sombrero.records import Prompt

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM_ROLE = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
DROPS_SYSTEM = "{% for m in messages if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% endfor %}"
REASONS = CHATML.replace("assistant\n", "assistant\n<think>\n")
MAY_REASON = CHATML.replace(
    "assistant\n",
    "assistant\n{% if enable_thinking is not false %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}",
)
WANTS_PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
THINK = ("<think>", "</think>")
PROMPTS = (Prompt("p-1", "How do I bake bread?"), Prompt("p-2", "Is \u00fcber a word?"))


def make_tokenizer(chat_template: str | None) -> PreTrainedTokenizerFast:
    """Bytes as tokens, so that every text survives; adds <s> in front when asked for special tokens."""
    specials = ["<s>", "<|im_start|>", "<|im_end|>", *THINK]
    vocabulary = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE(vocab={token: n for n, token in enumerate(vocabulary)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    core.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<|im_end|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def test_text_and_tokens_are_those_of_the_template() -> None:
    tokenizer = make_tokenizer(CHATML)
    rendering = render(tokenizer, PROMPTS)
    assert rendering.system_role == "none"
    for prompt, rendered in zip(PROMPTS, rendering.prompts, strict=True):
        messages = [{"role": "user", "content": prompt.text}]
        expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert rendered.prompt is prompt
        assert rendered.text == f"<|im_start|>user\n{prompt.text}<|im_end|>\n<|im_start|>assistant\n"
        assert list(rendered.token_ids) == expected
        assert tokenizer.bos_token_id not in rendered.token_ids


def test_system_prompt_in_its_own_role() -> None:
    rendering = render(make_tokenizer(CHATML), PROMPTS, system_prompt="Be brief.")
    assert rendering.system_role == "native"
    assert all(r.text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n") for r in rendering.prompts)


@pytest.mark.parametrize("template", [NO_SYSTEM_ROLE, DROPS_SYSTEM])
def test_template_without_a_system_role(template: str) -> None:
    rendering = render(make_tokenizer(template), PROMPTS, system_prompt="Be brief.")
    assert rendering.system_role == "prepended"
    for prompt, rendered in zip(PROMPTS, rendering.prompts, strict=True):
        assert rendered.text.count(f"Be brief.\n\n{prompt.text}") == 1
    assert render(make_tokenizer(template), PROMPTS).system_role == "none"


def test_open_reasoning_block_is_closed() -> None:
    open_ended = render(make_tokenizer(REASONS), PROMPTS)
    assert all(r.text.endswith("<think>\n") for r in open_ended.prompts)
    closed = render(make_tokenizer(REASONS), PROMPTS, close_reasoning=THINK)
    assert all(r.text.endswith("assistant\n<think>\n\n</think>\n\n") for r in closed.prompts)
    tokenizer = make_tokenizer(REASONS)
    assert [tokenizer.decode(r.token_ids) for r in closed.prompts] == [r.text for r in closed.prompts]


def test_nothing_is_closed_where_nothing_is_open() -> None:
    asked = (Prompt("p", "What does <think>"),)
    assert render(make_tokenizer(CHATML), asked, close_reasoning=THINK) == render(make_tokenizer(CHATML), asked)
    tokenizer = make_tokenizer(MAY_REASON)
    switched_off = render(tokenizer, PROMPTS, close_reasoning=THINK, enable_thinking=False)
    assert switched_off == render(tokenizer, PROMPTS, close_reasoning=THINK)
    assert switched_off == render(tokenizer, PROMPTS, enable_thinking=False)


def test_long_prompt_is_named() -> None:
    tokenizer = make_tokenizer(CHATML)
    lengths = [len(r.token_ids) for r in render(tokenizer, PROMPTS).prompts]
    limit = max(lengths)
    render(tokenizer, PROMPTS, max_tokens=limit)
    longest = PROMPTS[lengths.index(limit)].id
    with pytest.raises(PromptError, match=f"'{longest}' is {limit} tokens long .* limit is {limit - 1}"):
        render(tokenizer, PROMPTS, max_tokens=limit - 1)
    with pytest.raises(PromptError, match="1 more are too long"):
        render(tokenizer, PROMPTS, max_tokens=3)


def test_template_that_is_missing_or_fails() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        render(make_tokenizer(None), PROMPTS)
    with pytest.raises(ModelError, match="fails on prompt 'p-1': broken"):
        render(make_tokenizer("{{ raise_exception('broken') }}"), PROMPTS, system_prompt="Be brief.")
    with pytest.raises(ModelError, match="does not show prompt 'p-1'"):
        render(make_tokenizer(WANTS_PARTS), PROMPTS)


def test_nothing_to_render_and_empty_delimiter() -> None:
    with pytest.raises(PromptError, match="no prompts to render"):
        render(make_tokenizer(CHATML), ())
    with pytest.raises(ModelError, match="delimiter is empty"):
        render(make_tokenizer(CHATML), PROMPTS, close_reasoning=("<think>", ""))


TURNS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Good day"},
    {"role": "user", "content": "Who are you?"},
]


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM_ROLE, REASONS])
def test_the_first_turn_of_a_conversation_is_rendered_as_a_prompt_is(template: str) -> None:
    tokenizer = make_tokenizer(template)
    settings = {"system_prompt": "Be brief.", "close_reasoning": THINK}
    alone = render(tokenizer, [Prompt("p", "Hello")], **settings).prompts[0]
    first = render_conversation(tokenizer, TURNS[:1], **settings)
    assert (first.text, first.token_ids) == (alone.text, alone.token_ids)


@pytest.mark.parametrize("template", [CHATML, NO_SYSTEM_ROLE])
def test_a_conversation_keeps_its_turns_and_one_system_prompt(template: str) -> None:
    rendered = render_conversation(make_tokenizer(template), TURNS, system_prompt="Be brief.")
    places = [rendered.text.index(part) for part in ("Be brief.", "Hello", "Good day", "Who are you?")]
    assert places == sorted(places)
    assert rendered.text.count("Be brief.") == 1
    assert rendered.text.endswith("<|im_start|>assistant\n")


def test_a_template_of_one_turn_refuses_a_conversation() -> None:
    template = "{% if messages|length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + CHATML
    with pytest.raises(ModelError, match="conversation of 3 messages: one turn only"):
        render_conversation(make_tokenizer(template), TURNS)


def test_a_channel_of_final_answers_is_opened_in_advance() -> None:
    harmony = ("<|channel|>analysis<|message|>", "<|end|>", "<|channel|>final<|message|>")
    opened = render(make_tokenizer(CHATML), PROMPTS, close_reasoning=harmony)
    assert all(r.text.endswith("assistant\n<|channel|>final<|message|>") for r in opened.prompts)
