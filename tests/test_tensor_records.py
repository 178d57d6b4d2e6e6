"""An edit on disk is the edit, every field of it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from sombrero.errors import RunError
from sombrero.records import LowRankEdit
from sombrero.tensor_records import load_edit, save_edit

V, A = torch.linalg.qr(torch.randn(6, 2)).Q, torch.randn(4, 2)
EDITS = {
    "0.attention": LowRankEdit(V, A, torch.randn(2), 0.7, torch.rand(6)),
    "0.mlp": LowRankEdit(V, A, None, 1.25, torch.rand(6)),  # shares V with the other writer of its layer
    "1.attention": LowRankEdit(V, A.clone(), torch.randn(2), 1.0),
    "1.mlp": LowRankEdit(V[:, :1], A[:, :1], None, 0.0),
}


def test_an_edit_comes_back_whole(tmp_path: Path) -> None:
    save_edit(EDITS, tmp_path / "edit.safetensors")
    found = load_edit(tmp_path / "edit.safetensors")
    assert found.keys() == EDITS.keys()
    for name, edit in EDITS.items():
        for field in fields(LowRankEdit):
            expected, value = getattr(edit, field.name), getattr(found[name], field.name)
            same = torch.equal(expected, value) if isinstance(expected, torch.Tensor) else expected == value
            assert same, (name, field.name)


def test_a_damaged_edit_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    save_edit(EDITS, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"edit\.safetensors cannot be read"):
        load_edit(path)
