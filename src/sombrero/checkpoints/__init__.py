"""Checkpoints on disk: where their tensors lie, an edited copy of them, the proof of what changed, and its card."""

from sombrero.checkpoints.bake import bake
from sombrero.checkpoints.card import (
    MEASURED_LIVE,
    NOT_MEASURED,
    CardData,
    CardEffect,
    measured_effects,
    paired_sentence,
    render_card,
    shell_name,
    write_card,
)
from sombrero.checkpoints.header import TensorEntry, WeightFile
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.record import BakeReport, read_record
from sombrero.checkpoints.verify import VerifyReport, verify_untouched

__all__ = [
    "MEASURED_LIVE",
    "NOT_MEASURED",
    "BakeReport",
    "CardData",
    "CardEffect",
    "CheckpointIndex",
    "TensorEntry",
    "VerifyReport",
    "WeightFile",
    "bake",
    "measured_effects",
    "paired_sentence",
    "read_record",
    "render_card",
    "shell_name",
    "verify_untouched",
    "write_card",
]
