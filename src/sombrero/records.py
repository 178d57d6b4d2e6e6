"""The records that rooms hand to each other.

Each is frozen; tensors are written with their axes: ``n`` prompts, ``L`` layers, ``d`` the width of the residual
stream, ``m`` units of a map, ``K`` directions of an edit. State index 0 is the embeddings, index ``l + 1`` the residual
stream after layer ``l``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SplitName = Literal["map", "search", "report"]
WriterKind = Literal["attention", "mlp"]
Layout = Literal["linear", "conv1d"]
RuleName = Literal["project", "compose", "guarded"]
VerdictLabel = Literal["refusal", "answer", "empty", "degenerate"]


@dataclass(frozen=True)
class Prompt:
    """One request, as a person would type it. ``pair`` joins a borderline prompt and its harmful twin."""

    id: str
    text: str
    category: str = "uncategorized"
    pair: str | None = None


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt as the model sees it: chat template applied, generation prompt added, tokenized without padding."""

    prompt: Prompt
    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class ModelHandle:
    """A loaded model. ``folder`` holds its checkpoint files; ``source`` is what the user named."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: str
    folder: Path
    revision: str | None = None

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
class HiddenStates:
    """What one forward pass over a set of prompts left at the end of each prompt.

    hidden: ``(n, L + 1, d)`` float32, at the prompt's last token. writer_inputs: writer name -> ``(n, P, d_in)`` in the
    model's dtype, the writer's input ``x`` at P tokens: those that the chat template gives to all prompts alike, and
    those of an answer's opening. There may be fewer rows of them than prompts, the first ones.
    """

    prompt_ids: tuple[str, ...]
    hidden: torch.Tensor
    writer_inputs: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class RefusalMap:
    """One codebook per state index, trained on harmful states alone.

    codebook ``(L + 1, m, d)`` float32; hit_counts ``(L + 1, m)`` int64 over the training samples; best_units
    ``(L + 1, n_train)`` int64; quantization_error, topographic_error ``(L + 1,)`` float32; u_matrix ``(L + 1, m)``
    float32, the mean distance of a unit to its lattice neighbours; harmless_mean, harmful_mean ``(L + 1, d)`` float32.
    """

    n_rows: int
    n_columns: int
    lattice: str
    rule: str
    codebook: torch.Tensor
    hit_counts: torch.Tensor
    best_units: torch.Tensor
    quantization_error: torch.Tensor
    topographic_error: torch.Tensor
    u_matrix: torch.Tensor
    harmless_mean: torch.Tensor
    harmful_mean: torch.Tensor
    train_ids: tuple[str, ...]


@dataclass(frozen=True)
class DirectionSet:
    """Directions per state index, most salient first.

    vectors ``(L + 1, m, d)`` float32, ``w_j - mu``, not normalised; units ``(L + 1, m)`` int64, the map unit each row
    came from; hit_counts ``(L + 1, m)`` int64; auroc ``(L + 1, m)`` float32 on held-out prompts, auroc_low and
    auroc_high its 95% bootstrap interval; log_odds ``(L + 1, m)`` float32, the mean refusal log-odds of the training
    prompts whose best unit it is, NaN where not measured; harmless_mean ``(L + 1, d)`` float32, the mean ``mu``.
    """

    method: str
    vectors: torch.Tensor
    units: torch.Tensor
    hit_counts: torch.Tensor
    auroc: torch.Tensor
    auroc_low: torch.Tensor
    auroc_high: torch.Tensor
    log_odds: torch.Tensor
    harmless_mean: torch.Tensor


@dataclass(frozen=True)
class MapQuality:
    """How far each layer's map can be trusted, and how many units its samples support.

    trustworthiness, continuity ``(L + 1,)`` float32 of the map as a two-dimensional picture (Venna & Kaski 2001);
    rand, cosine ``(L + 1,)`` float32, the stability over seeds: mean adjusted Rand index of the assignments and mean
    cosine of matched directions ``w_j - mu``.

    candidates ``(S,)`` int64, the numbers of units that were tried, from 1 up; held_out_error ``(L + 1, S)`` float32,
    the quantization error of samples that the map was not trained on; strength ``(L + 1, S)`` float32, the prediction
    strength (Tibshirani & Walther 2005). chosen, chosen_low, chosen_high ``(L + 1,)`` int64: the number of units that
    the harmful samples support, with the 95% interval over resamples; control ``(L + 1,)`` int64: the same for as many
    harmless samples, whose structure cannot be refusal.
    """

    trustworthiness: torch.Tensor
    continuity: torch.Tensor
    rand: torch.Tensor
    cosine: torch.Tensor
    candidates: torch.Tensor
    held_out_error: torch.Tensor
    strength: torch.Tensor
    chosen: torch.Tensor
    chosen_low: torch.Tensor
    chosen_high: torch.Tensor
    control: torch.Tensor


@dataclass(frozen=True)
class Manifold:
    """Every layer's states in the plane of their two main components, for pictures.

    harmful ``(L + 1, n_h, 2)``, harmless ``(L + 1, n_g, 2)``, codebook ``(L + 1, m, 2)``, all float32, projected on one
    basis a layer, that of harmful and harmless states together; explained ``(L + 1, 2)`` float32, the share of variance
    along each axis.
    """

    harmful: torch.Tensor
    harmless: torch.Tensor
    codebook: torch.Tensor
    explained: torch.Tensor


@dataclass(frozen=True)
class UnitProfile:
    """Who lives in one unit of one layer's map: training prompts whose best unit it is.

    categories: how many of these prompts are of each category, most frequent first. log_odds: their mean refusal
    log-odds at the first token; None for a unit without prompts.
    """

    state: int
    unit: int
    prompt_ids: tuple[str, ...]
    categories: Mapping[str, int]
    log_odds: float | None


@dataclass(frozen=True)
class LayerProfile:
    """Strength of an edit over the layers for one kind of writer: constant on ``first..last``, 0 elsewhere."""

    first: int
    last: int
    strength: float

    def at(self, layer: int) -> float:
        """Strength at ``layer`` (0-based)."""
        return self.strength if self.first <= layer <= self.last else 0.0


@dataclass(frozen=True)
class EditParameters:
    """One point of the search space: everything that is needed to build an edit from a direction set.

    map_layer is the state index whose directions every writer uses; None means that a writer of layer ``l`` uses its
    own, index ``l + 1``. units are salience ranks into the direction set. alpha and beta matter for ``guarded`` alone.
    """

    rule: RuleName
    directions: str
    map_layer: int | None
    units: tuple[int, ...]
    profiles: Mapping[WriterKind, LayerProfile]
    alpha: float = 0.01
    beta: float = 1.0


@dataclass(frozen=True)
class LowRankEdit:
    """``y' = y - strength * V (A^T x + c)`` for one writer. V ``(d, K)``, A ``(d_in, K)``, c ``(K,)`` or None."""

    V: torch.Tensor
    A: torch.Tensor
    c: torch.Tensor | None
    strength: float


ModelEdit = Mapping[str, LowRankEdit]
"""Writer name -> its edit. Writers that are not named stay as they are."""


@dataclass(frozen=True)
class Response:
    """A greedy answer, held in memory alone. ``stopped`` says why it ended: end token, length, or verdict certain."""

    prompt_id: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length", "settled"]


@dataclass(frozen=True)
class Verdict:
    """What a detector said of one response. Holds the matched marker and the length, never the response."""

    prompt_id: str
    label: VerdictLabel
    marker: str | None
    n_tokens: int


@dataclass(frozen=True)
class Proportion:
    """``count`` of ``n`` with its Wilson 95% interval."""

    count: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """count / n."""
        return self.count / self.n


@dataclass(frozen=True)
class Divergence:
    """KL(base || edited) in nats, float32, full vocabulary; means, with the value of every prompt."""

    first_token: float
    sequence: float
    first_token_by_prompt: tuple[float, ...] = field(repr=False)
    sequence_by_prompt: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class Coherence:
    """Of the edited model's answers to harmless prompts.

    perplexity: under the base model, per token. repetition: mean share of repeated 4-grams. empty, degenerate: counts.
    """

    perplexity: float
    repetition: float
    empty: int
    degenerate: int
    n: int


@dataclass(frozen=True)
class Measurement:
    """Everything that is measured of one model on one set of prompts (DESIGN §3).

    refusals: on harmful prompts. false_refusals: on borderline-safe prompts. harmless_refusals: on plain harmless ones.
    """

    refusals: Proportion
    false_refusals: Proportion
    harmless_refusals: Proportion
    labels: Mapping[str, int]
    kl: Divergence
    coherence: Coherence
    verdicts: tuple[Verdict, ...] = field(repr=False)


@dataclass(frozen=True)
class Sample:
    """An answer of the base and of the edited model to one harmless or borderline prompt, for reports."""

    prompt_id: str
    kind: Literal["harmless", "borderline"]
    prompt: str
    base: str
    edited: str


@dataclass(frozen=True)
class LayerAccounting:
    """How well the covered writers explain one layer: ``max |sum of writers - (h_{l+1} - h_l)|`` over its scale."""

    layer: int
    relative_error: float
    writers: tuple[str, ...]


@dataclass(frozen=True)
class Baseline:
    """How the untouched model answers the search prompts. Verdicts of the harmful ones, and first tokens.

    refusal_starts and answer_starts: the first token of each refusal (harmful prompts) and of each harmless answer.
    """

    refusals: Proportion
    verdicts: tuple[Verdict, ...]
    refusal_starts: tuple[int, ...]
    answer_starts: tuple[int, ...]


@dataclass(frozen=True)
class Finalist:
    """A trial of the front, live, on the reporting prompts."""

    number: int
    parameters: EditParameters
    measurement: Measurement


@dataclass(frozen=True)
class Effect:
    """The base model and the finalists on the reporting prompts; ``chosen`` is the number of the picked trial.

    continuations: tokens with which the base model begins its own answers to the harmless prompts, for the sequence KL.
    """

    base: Measurement
    chosen: int
    finalists: tuple[Finalist, ...]
    samples: tuple[Sample, ...]
    continuations: tuple[tuple[int, ...], ...] = field(repr=False)


@dataclass(frozen=True)
class Verification:
    """The baked checkpoint, reloaded, beside the live edit on the same prompts.

    flips: harmful prompts whose verdict (refusal or not) differs. max_log_prob_difference: over first-token log-probs
    to which the live edit gives at least 0.001; mean_log_prob_difference likewise. The rounding differences are those
    between the trial's unrounded edit and the baked checkpoint: what storing the edit in the checkpoint's dtype costs.
    """

    measurement: Measurement
    flips: tuple[str, ...]
    max_log_prob_difference: float
    mean_log_prob_difference: float
    max_rounding_difference: float
    mean_rounding_difference: float
    edited_tensors: int
    untouched_tensors: int
