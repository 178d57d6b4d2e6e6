"""A loaded model, its writers, and the proof that they are all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


EMBEDDED: Mapping[str, str] = {
    "embedded": "SmolLM2-135M-Instruct with Sombrero's refusal adapter",
    "embedded-parts": "SmolLM2-135M-Instruct with Sombrero's refusal adapter of five parts",
}
"""The models that come with the package: what users name them, and what they are."""


WriterKind = Literal["attention", "mlp"]


Layout = Literal["linear", "conv1d"]


@dataclass(frozen=True)
class ModelHandle:
    """A loaded model. ``folder`` holds its checkpoint files; ``source`` is what the user named.

    stored_dtype: that of the checkpoint's weights, in which a bake stores edited ones; None: that of the loaded model.
    kept_tokens: special tokens that stay in the text of an answer, as they delimit its reasoning.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    folder: Path
    revision: str | None = None
    stored_dtype: torch.dtype | None = None
    kept_tokens: frozenset[int] = frozenset()

    @property
    def device(self) -> torch.device:
        """Where token ids must be sent."""
        return next(self.model.get_input_embeddings().parameters()).device


Subject = Callable[[], AbstractContextManager[ModelHandle]]
"""A model under measurement: entering it gives a handle which behaves as that model (base, live-edited or baked)."""


@dataclass(frozen=True)
class Writer:
    """One module that adds ``y = W x + b`` to the residual stream in one layer.

    ``weight_name`` and ``bias_name`` are the names of its tensors in the checkpoint. ``layout`` says how the weight is
    stored: ``linear`` is ``(d, d_in)``, ``conv1d`` is ``(d_in, d)``.
    """

    name: str
    layer: int
    kind: WriterKind
    module_path: str
    weight_name: str
    bias_name: str | None
    layout: Layout
    d_in: int
    d_out: int


@dataclass(frozen=True)
class LayerAccounting:
    """How well the covered writers explain one layer: ``max |sum of writers - (h_{l+1} - h_l)|`` over its scale."""

    layer: int
    relative_error: float
    writers: tuple[str, ...]


@dataclass(frozen=True)
class LayerLeak:
    """How much of the component along an edit's directions one edited layer still writes.

    The component is that of the sum of all writers of the layer, edited or not, on the span of the edit's directions
    there, as a root mean square over the last tokens of a probe. writers: the edited ones. written: the untouched
    model's. ratio: after over before, the edited layer entered with the untouched model's residual stream. end_to_end:
    the same in the edited model as it runs, whose earlier layers are edited too.
    """

    layer: int
    writers: tuple[str, ...]
    written: float
    ratio: float
    end_to_end: float
