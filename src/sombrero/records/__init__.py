"""The records that rooms hand to each other.

Each is frozen; tensors are written with their axes: ``n`` prompts, ``L`` layers, ``d`` the width of the residual
stream, ``m`` units of a map, ``K`` directions of an edit. State index 0 is the embeddings, index ``l + 1`` the residual
stream after layer ``l``.
"""

from sombrero.records.comparisons import (
    Comparison,
    ComparisonBase,
    ComparisonVerdict,
    Difference,
    FrontBand,
    FrontPoint,
    Interval,
    MatchedFigures,
    MeasuredFigures,
    MeasuredTrial,
    MethodFront,
    MethodName,
    Outcome,
    VerdictCode,
)
from sombrero.records.edits import EditParameters, LayerProfile, LowRankEdit, ModelEdit, RuleName
from sombrero.records.maps import DirectionSet, HiddenStates, Manifold, MapQuality, RefusalMap, UnitProfile
from sombrero.records.measurements import (
    Coherence,
    Divergence,
    Measurement,
    PairedRefusals,
    Proportion,
    Response,
    Sample,
    SecondOpinion,
    Spread,
    TaskResult,
    Verdict,
    VerdictLabel,
)
from sombrero.records.models import LayerAccounting, LayerLeak, Layout, ModelHandle, Subject, Writer, WriterKind
from sombrero.records.prompts import Prompt, RenderedPrompt, SplitName
from sombrero.records.runs import Baseline, Calibration, Effect, Finalist, Goal, TrialScore, Verification

__all__ = [
    "Baseline",
    "Calibration",
    "Coherence",
    "Comparison",
    "ComparisonBase",
    "ComparisonVerdict",
    "Difference",
    "DirectionSet",
    "Divergence",
    "EditParameters",
    "Effect",
    "Finalist",
    "FrontBand",
    "FrontPoint",
    "Goal",
    "HiddenStates",
    "Interval",
    "LayerAccounting",
    "LayerLeak",
    "LayerProfile",
    "Layout",
    "LowRankEdit",
    "Manifold",
    "MapQuality",
    "MatchedFigures",
    "MeasuredFigures",
    "MeasuredTrial",
    "Measurement",
    "MethodFront",
    "MethodName",
    "ModelEdit",
    "ModelHandle",
    "Outcome",
    "PairedRefusals",
    "Prompt",
    "Proportion",
    "RefusalMap",
    "RenderedPrompt",
    "Response",
    "RuleName",
    "Sample",
    "SecondOpinion",
    "SplitName",
    "Spread",
    "Subject",
    "TaskResult",
    "TrialScore",
    "UnitProfile",
    "Verdict",
    "VerdictCode",
    "VerdictLabel",
    "Verification",
    "Writer",
    "WriterKind",
]
