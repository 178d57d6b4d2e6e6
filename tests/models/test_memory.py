"""How much memory there is: the machine's, or what a container may take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sombrero.models import memory
from sombrero.models.memory import free_bytes, total_bytes


def test_no_more_is_free_than_there_is() -> None:
    total, free = total_bytes(), free_bytes(torch.device("cpu"))
    assert total is None or free is None or 0 < free <= total


@pytest.mark.skipif(total_bytes() is None, reason="this system does not say how much memory it has")
def test_a_container_has_what_it_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "none")
    machine = total_bytes()
    assert machine is not None
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    for limit, expected in (("max", machine), ("1048576", 1048576), (str(4 * machine), machine)):
        (tmp_path / "memory.max").write_text(limit + "\n", encoding="ascii")
        assert total_bytes() == expected
