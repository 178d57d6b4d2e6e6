"""The records that rooms hand to each other.

Each is frozen; tensors are written with their axes: ``n`` prompts, ``L`` layers, ``d`` the width of the residual
stream, ``m`` units of a map, ``K`` directions of an edit. State index 0 is the embeddings, index ``l + 1`` the residual
stream after layer ``l``.
"""

from sombrero.records.edits import EditParameters, LayerProfile, LowRankEdit, ModelEdit, RuleName
from sombrero.records.maps import DirectionSet, HiddenStates, Manifold, MapQuality, RefusalMap, UnitProfile
from sombrero.records.measurements import (
    Coherence,
    Divergence,
    Measurement,
    Proportion,
    Response,
    Sample,
    Verdict,
    VerdictLabel,
)
from sombrero.records.models import LayerAccounting, LayerLeak, Layout, ModelHandle, Subject, Writer, WriterKind
from sombrero.records.prompts import Prompt, RenderedPrompt, SplitName
from sombrero.records.runs import Baseline, Effect, Finalist, TrialScore, Verification

__all__ = [
    "Baseline",
    "Coherence",
    "DirectionSet",
    "Divergence",
    "EditParameters",
    "Effect",
    "Finalist",
    "HiddenStates",
    "LayerAccounting",
    "LayerLeak",
    "LayerProfile",
    "Layout",
    "LowRankEdit",
    "Manifold",
    "MapQuality",
    "Measurement",
    "ModelEdit",
    "ModelHandle",
    "Prompt",
    "Proportion",
    "RefusalMap",
    "RenderedPrompt",
    "Response",
    "RuleName",
    "Sample",
    "SplitName",
    "Subject",
    "TrialScore",
    "UnitProfile",
    "Verdict",
    "VerdictLabel",
    "Verification",
    "Writer",
    "WriterKind",
]
