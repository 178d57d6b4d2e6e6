"""Checkpoints on disk: where their tensors lie, an edited copy of them, the proof of what changed, and its card."""

from sombrero.checkpoints.adapter import AdapterReport, export_adapter
from sombrero.checkpoints.bake import bake
from sombrero.checkpoints.card import (
    INTENDED_USE,
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
from sombrero.checkpoints.companions import RECORD_NAME
from sombrero.checkpoints.diff import CheckpointDiff, diff_checkpoints
from sombrero.checkpoints.header import TensorEntry, WeightFile
from sombrero.checkpoints.index import CheckpointIndex
from sombrero.checkpoints.markup import base_license, hub_id
from sombrero.checkpoints.packed import Packing
from sombrero.checkpoints.push import check_repository, push
from sombrero.checkpoints.record import BakeReport, read_record
from sombrero.checkpoints.verify import VerifyReport, verify_untouched
from sombrero.checkpoints.verify_folder import FolderReport, verify_folder
from sombrero.checkpoints.verify_tensors import TensorVerification, verify_tensors

__all__ = [
    "INTENDED_USE",
    "MEASURED_LIVE",
    "NOT_MEASURED",
    "RECORD_NAME",
    "AdapterReport",
    "BakeReport",
    "CardData",
    "CardEffect",
    "CheckpointDiff",
    "CheckpointIndex",
    "FolderReport",
    "Packing",
    "TensorEntry",
    "TensorVerification",
    "VerifyReport",
    "WeightFile",
    "bake",
    "base_license",
    "check_repository",
    "diff_checkpoints",
    "export_adapter",
    "hub_id",
    "measured_effects",
    "paired_sentence",
    "push",
    "read_record",
    "render_card",
    "shell_name",
    "verify_folder",
    "verify_tensors",
    "verify_untouched",
    "write_card",
]
