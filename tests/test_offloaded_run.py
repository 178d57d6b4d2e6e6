"""A whole run of a model whose weights lie on the disk: map, trials, bake and proof."""

from __future__ import annotations

from pathlib import Path

from sombrero import verbs
from tests.tiny_runs import tiny_config


def test_a_run_through_the_disk_equals_one_in_memory(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    config = tiny_config(tmp_path / "inputs")
    placed = config.model.model_copy(update={"max_memory": {"cpu": "150KB"}, "offload_folder": tmp_path / "offload"})
    whole = verbs.run(config, tmp_path / "whole")
    offloaded = verbs.run(config.model_copy(update={"model": placed}), tmp_path / "offloaded")
    for part in ("base", "edited", "baked"):
        assert offloaded[part]["refusals"] == whole[part]["refusals"]
    assert offloaded["live_equals_baked"]["flips"] == []
