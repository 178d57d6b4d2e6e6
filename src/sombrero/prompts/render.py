"""Prompts as the model sees them: chat template, generation prompt, token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sombrero.errors import ModelError, PromptError
from sombrero.records import Prompt, RenderedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SystemRole = Literal["native", "prepended", "none"]
Message = dict[str, str]
"""``role`` and ``content``."""


@dataclass(frozen=True)
class Rendering:
    """Rendered prompts, and where the system prompt went.

    system_role: ``native``, the template has a system role; ``prepended``, it has none, so the system prompt stands in
    front of each request; ``none``, no system prompt was given.
    """

    prompts: tuple[RenderedPrompt, ...]
    system_role: SystemRole


def render(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    system_prompt: str | None = None,
    close_reasoning: tuple[str, ...] | None = None,
    max_tokens: int | None = None,
    **template_kwargs: Any,
) -> Rendering:
    """Apply the tokenizer's chat template, with generation prompt, and tokenize without adding special tokens.

    close_reasoning: the opening and closing delimiter of a reasoning block, such as ("<think>", "</think>"); where the
    generation prompt ends by opening one, an empty block is closed, so that the last token stands before the answer.
    A third one opens the channel of final answers; the prompt then ends with it.
    max_tokens: longest rendering allowed. template_kwargs go to the template (``enable_thinking=False``).

    Raises ModelError when there is no chat template, or it fails on or drops a request. Raises PromptError when there
    is nothing to render or a prompt is longer than ``max_tokens``.
    """
    if not prompts:
        raise PromptError("there are no prompts to render; give at least one")
    if close_reasoning is not None and not all(close_reasoning):
        raise ModelError(f"a reasoning delimiter is empty: {close_reasoning!r}; give both, or None")
    apply = _template(tokenizer, template_kwargs)
    system_role = _find_system_role(apply, prompts[0], system_prompt)
    texts = [_render_text(apply, prompt, system_prompt, system_role) for prompt in prompts]
    if close_reasoning is not None:
        texts = [_closed(text, *close_reasoning) for text in texts]
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    _check_lengths(prompts, encoded, max_tokens)
    rendered = zip(prompts, texts, encoded, strict=True)
    return Rendering(tuple(RenderedPrompt(p, text, tuple(ids)) for p, text, ids in rendered), system_role)


def render_conversation(
    tokenizer: PreTrainedTokenizerBase,
    history: Sequence[Message],
    *,
    system_prompt: str | None = None,
    close_reasoning: tuple[str, ...] | None = None,
    **template_kwargs: Any,
) -> RenderedPrompt:
    """A conversation whose last message is the user's, as :func:`render` would show it with that system prompt.

    Raises ModelError when there is no chat template or it does not take several turns.
    """
    from jinja2 import TemplateError

    apply = _template(tokenizer, template_kwargs)
    last = Prompt("chat", history[-1]["content"])
    system_role = _find_system_role(apply, last, system_prompt)
    try:
        text = apply([*_messages(Prompt("chat", history[0]["content"]), system_prompt, system_role), *history[1:]])
    except (TemplateError, TypeError) as error:
        raise ModelError(
            f"the chat template fails on a conversation of {len(history)} messages: {error}; start a new one"
        ) from error
    text = text if close_reasoning is None else _closed(text, *close_reasoning)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return RenderedPrompt(last, text, tuple(ids))


def _template(tokenizer: PreTrainedTokenizerBase, template_kwargs: dict[str, Any]) -> Callable[[list[Message]], str]:
    _require_template(tokenizer)

    def apply(messages: list[Message]) -> str:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **template_kwargs)
        )

    return apply


def _require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        tokenizer.get_chat_template()
    except ValueError as error:
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template to use by default; choose an "
            "instruction-tuned model, or set tokenizer.chat_template (file chat_template.jinja beside the tokenizer)"
        ) from error


def _find_system_role(apply: Callable[[list[Message]], str], prompt: Prompt, system_prompt: str | None) -> SystemRole:
    """Ask the template itself. One that drops the system message without a word has no system role either."""
    from jinja2 import TemplateError

    if system_prompt is None:
        return "none"
    try:
        text = apply(_messages(prompt, system_prompt, "native"))
    except TemplateError:
        return "prepended"
    return "native" if system_prompt.strip() in text else "prepended"


def _messages(prompt: Prompt, system_prompt: str | None, system_role: SystemRole) -> list[Message]:
    if system_prompt is not None and system_role == "native":
        return [{"role": "system", "content": system_prompt}, {"role": "user", "content": prompt.text}]
    if system_prompt and system_role == "prepended":
        return [{"role": "user", "content": f"{system_prompt}\n\n{prompt.text}"}]
    return [{"role": "user", "content": prompt.text}]


def _render_text(
    apply: Callable[[list[Message]], str], prompt: Prompt, system_prompt: str | None, system_role: SystemRole
) -> str:
    from jinja2 import TemplateError

    try:
        text = apply(_messages(prompt, system_prompt, system_role))
    except (TemplateError, TypeError) as error:
        raise ModelError(
            f"the chat template fails on prompt {prompt.id!r}: {error}; set a template that takes one user message"
        ) from error
    if prompt.text.strip() not in text:
        raise ModelError(
            f"the chat template does not show prompt {prompt.id!r} as it was given; "
            "set a template that takes a user message of plain text"
        )
    return text


def _closed(text: str, opening: str, closing: str, final: str | None = None) -> str:
    """Close an empty block in the usual layout, a blank line inside and a blank line after; or open the answer."""
    head = text.rstrip()
    if final is not None:
        return text if head.endswith(final.strip()) else text + final
    return f"{head}\n\n{closing.strip()}\n\n" if head.endswith(opening.strip()) else text


def _check_lengths(prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]], max_tokens: int | None) -> None:
    if max_tokens is None:
        return
    too_long = [(prompt, len(ids)) for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) > max_tokens]
    if too_long:
        prompt, length = too_long[0]
        others = f" ({len(too_long) - 1} more are too long)" if len(too_long) > 1 else ""
        raise PromptError(
            f"prompt {prompt.id!r} is {length} tokens long when rendered, the limit is {max_tokens}{others}; "
            "shorten it, or raise max_tokens"
        )
