"""Detector ``classifier``: any Hugging Face sequence classifier, with a mapping of its labels to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from sombrero.errors import ModelError, UsageError
from sombrero.evaluation.detectors.protocol import Detector, DetectorSetup, faulty_or, require_pairs
from sombrero.records import Prompt, Response, Verdict, VerdictLabel

if TYPE_CHECKING:
    import torch

BATCH_SIZE = 32
UNBOUNDED = 10**6
"""A tokenizer without a limit of its own names an astronomical one."""
MIN_TOKENS = 8
"""Less room than this for a text is a limit that somebody saved by mistake."""


class ClassifierDetector:
    """The classifier's most probable label, mapped; an ``answer`` that is no text is empty or degenerate.

    A text that is longer than the classifier's context is cut at its end: refusals are in how responses begin. With
    ``pair`` the classifier reads prompt and response, and the longer of the two is cut.

    Raises ModelError when ``source`` is no sequence classifier that can be loaded, UsageError when ``labels`` do not
    map each of its labels to one of ours.
    """

    name = "classifier"

    def __init__(
        self,
        source: str,
        labels: Mapping[str, str],
        *,
        pair: bool = False,
        device: str = "cpu",
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.source, self.pair, self.batch_size = source, pair, batch_size
        self._tokenizer, self._model = _load(source, device)
        self.labels = _check_labels(source, self._model.config, labels)
        self.max_tokens = _context(self._tokenizer, self._model)
        if self._tokenizer.pad_token is None:
            self.batch_size = 1  # rows of several lengths cannot stand side by side

    def judge_all(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> tuple[Verdict, ...]:
        """See :class:`sombrero.evaluation.Detector`."""
        import torch

        require_pairs(prompts, responses)
        found: dict[int, str] = {}
        order = sorted(range(len(responses)), key=lambda i: len(responses[i].text))
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            with torch.inference_mode():
                logits = self._logits([prompts[i].text for i in batch], [responses[i].text for i in batch])
            if not torch.isfinite(logits).all():
                raise ModelError(f"the classifier {self.source} gives logits that are not finite; load another one")
            names = self._model.config.id2label
            found.update((i, names[k]) for i, k in zip(batch, logits.argmax(dim=-1).tolist(), strict=True))
        return tuple(self._verdict(response, found[i]) for i, response in enumerate(responses))

    def settled(self, text: str) -> bool:
        """Never: a classifier reads whole responses."""
        return False

    def _logits(self, prompts: list[str], responses: list[str]) -> torch.Tensor:
        batch = self._tokenizer(
            *((prompts, responses) if self.pair else (responses,)),
            truncation="longest_first",
            max_length=self.max_tokens,
            padding=self.batch_size > 1,
            return_tensors="pt",
        ).to(self._model.device)
        logits: torch.Tensor = self._model(**batch).logits
        return logits.float()

    def _verdict(self, response: Response, name: str) -> Verdict:
        label = faulty_or(self.labels[name], response.text)
        return Verdict(response.prompt_id, label, name, len(response.token_ids))


def classifier(setup: DetectorSetup) -> Detector:
    """Made from the settings ``classifier``, ``classifier_labels`` and ``classifier_pair``. Raises UsageError."""
    settings = setup.settings
    if settings.classifier is None:
        raise UsageError("detector 'classifier' needs a sequence classifier; give its folder or hub id as classifier")
    return ClassifierDetector(
        settings.classifier, settings.classifier_labels, pair=settings.classifier_pair, device=setup.device
    )


def _load(source: str, device: str) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from sombrero.models import resolve_device

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, truncation_side="right")
        model, loaded = AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the classifier {source!r} cannot be loaded: {error}; give the folder or hub id of a sequence classifier "
            "with its tokenizer"
        ) from error
    # the library makes up what a checkpoint does not hold: a head of random numbers would judge like any other
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise ModelError(
            f"{source!r} is no sequence classifier: its checkpoint lacks {', '.join(missing[:3])}; "
            "give one that was trained to classify"
        )
    return tokenizer, model.float().to(resolve_device(device)).eval()


def _check_labels(source: str, config: Any, labels: Mapping[str, str]) -> dict[str, VerdictLabel]:
    own = list(config.id2label.values())
    if config.problem_type == "multi_label_classification" or len(own) < 2:
        raise ModelError(
            f"the classifier {source!r} does not choose one of several labels (it has {own}, problem type "
            f"{config.problem_type}); give one that does"
        )
    ours = [label for label in get_args(VerdictLabel) if label != "unknown"]
    advice = f"map each of {own} to one of {ours} in classifier_labels"
    missing = [name for name in own if name not in labels]
    if missing:
        raise UsageError(f"classifier_labels says nothing of {missing}, which the classifier {source!r} has; {advice}")
    foreign = [name for name in labels if name not in own]
    if foreign:
        raise UsageError(f"classifier_labels names {foreign}, which the classifier {source!r} does not have; {advice}")
    wrong = {name: label for name, label in labels.items() if label not in ours}
    if wrong:
        raise UsageError(f"classifier_labels maps to labels that there are not: {wrong}; {advice}")
    if "refusal" not in labels.values():
        raise UsageError(f"classifier_labels maps no label to 'refusal': {dict(labels)}; {advice}")
    return {name: label for name in own for label in ours if labels[name] == label}


def _context(tokenizer: Any, model: Any) -> int:
    """Tokens that a text may have, special ones included: the smaller of what tokenizer and model say."""
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < UNBOUNDED else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        # where a padding position is set aside, the positions of a text are counted after it
        paddings = [
            module.padding_idx
            for name, module in model.named_modules()
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
        ]
        limits.append(positions - (max(paddings) + 1 if paddings else 0))
    limit = min(limits, default=UNBOUNDED)
    if limit < MIN_TOKENS:
        raise ModelError(
            f"the classifier has room for {limit} tokens (tokenizer {tokenizer.model_max_length}, model {positions}); "
            f"it takes at least {MIN_TOKENS}"
        )
    return int(limit)
