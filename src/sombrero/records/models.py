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


Layout = Literal["linear", "conv1d", "experts_out_in", "experts_in_out"]
"""``linear`` is ``(d, d_in)``, ``conv1d`` its transpose; with E experts ``(E, d, d_in)``, ``(E, d_in, d)``."""


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
        return execution_device(self.model.get_input_embeddings())


def execution_device(module: torch.nn.Module) -> torch.device:
    """Where a module computes; of one whose weights lie elsewhere between calls (accelerate's offload), its hook's."""
    import torch

    place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    # a module without weights of its own, as fused experts under another one, computes where its inner ones do
    return next(module.parameters()).device if place is None else torch.device(place)


Subject = Callable[[], AbstractContextManager[ModelHandle]]
"""A model under measurement: entering it gives a handle which behaves as that model (base, live-edited or baked)."""


@dataclass(frozen=True)
class StoredTensors:
    """Where a checkpoint may keep a writer: names of its weight and bias, and the layout of the weight there.

    ``{expert}`` in a name stands for one tensor of each expert; its layout is then that of one of them.
    """

    weight: str
    bias: str | None
    layout: Layout


@dataclass(frozen=True)
class PostNorm:
    """A norm between a writer and the residual stream: it writes ``g * y / rms(y)`` with ``g = weight + offset``."""

    module_path: str
    offset: float


@dataclass(frozen=True)
class Writer:
    """One module that adds ``y = W x + b`` to the residual stream in one layer.

    ``weight_name`` and ``bias_name`` are the names of its tensors in the checkpoint. ``layout`` says how the weight is
    held by the module, as its ``parameter``. n_experts: the module holds so many writers, and its output is their sum
    weighted by the router at ``router_path``; their inputs are not seen from outside.

    What is added to the stream is ``scale * sigmoid(gate) * y``, where there is a gate, after the ``post_norms``.
    stored: every way in which checkpoints of the class name and lay out the tensors, the usual one first; empty where
    ``weight_name``, ``bias_name`` and ``layout`` say it.
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
    parameter: str = "weight"
    bias_parameter: str = "bias"
    n_experts: int | None = None
    stored: tuple[StoredTensors, ...] = ()
    post_norms: tuple[PostNorm, ...] = ()
    scale: float = 1.0
    gate_path: str | None = None
    router_path: str | None = None

    @property
    def stored_layout(self) -> Layout:
        """Layout of the weight in the checkpoint."""
        return self.stored[0].layout if self.stored else self.layout

    @property
    def n_parameters(self) -> int:
        """Numbers in its weight, over all experts."""
        return self.d_in * self.d_out * (self.n_experts or 1)


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


@dataclass(frozen=True)
class LayerRouting:
    """How one layer's router chose among its experts, over all tokens of some prompts, and what an edit did to that.

    reached: experts that some token chose before the edit; the edit of the others rests on no prompt, and is the same
    as that of all. logit_change: root mean square of the change of the router's logits over that of the logits.
    switched: share of the choices that the edited model makes and the untouched one did not.
    """

    layer: int
    writer: str
    experts: int
    reached: int
    logit_change: float
    switched: float
