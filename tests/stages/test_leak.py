"""What a run says of the component that its edit leaves, and of rules that its model cannot hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from sombrero import verbs
from sombrero.errors import UsageError
from sombrero.progress import Silent
from sombrero.records import LayerLeak
from sombrero.session import Session
from sombrero.stages.leak import leak_sentence, summarize_leak
from sombrero.stages.searching import usable_rules
from tests.tiny_runs import tiny_config

LEAKS = (
    LayerLeak(2, ("2.mlp",), 1.5, 0.04, 0.3),
    LayerLeak(3, ("3.mlp", "3.attention"), 0.5, 0.62, 0.5),
    LayerLeak(4, ("4.mlp",), 2.0, 0.2, 0.7),
)


class Heard(Silent):
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(("bound", "above"), [(0.7, 0), (0.62, 0), (0.3, 1), (0.1, 2), (0.0, 3)])
def test_more_than_the_stated_part_is_said(bound: float, above: int) -> None:
    found, sentence = summarize_leak(LEAKS, bound), leak_sentence(LEAKS, bound)
    assert found == {
        "max": 0.62, "layer": 3, "max_end_to_end": 0.7, "layers": 3, "bound": bound, "within_bound": above == 0,
    }  # fmt: skip
    if above == 0:
        assert sentence is None
        return
    assert sentence is not None
    assert sentence.startswith(f"{above} of 3 edited layers") and "layer 3, 62%" in sentence


def test_an_edit_of_nothing_leaks_nothing() -> None:
    assert summarize_leak((), 0.1)["max"] is None and summarize_leak((), 0.1)["within_bound"] is True
    assert leak_sentence((), 0.1) is None


def test_a_search_leaves_out_what_the_model_cannot_hold_and_says_so(tmp_path: Path) -> None:
    """The tiny Llama has no biases at its writers."""
    config = tiny_config(tmp_path / "inputs", search={"rules": ["affine", "norm"], "trials": 3})
    progress = Heard()
    found = verbs.search(config, tmp_path / "run", progress=progress)
    assert {score["parameters"]["rule"] for score in found["front"]} == {"norm"}
    assert [
        line for line in progress.lines if "affine" in line and "no bias tensor" in line and "leaves it out" in line
    ]


def test_a_search_of_nothing_but_such_rules_stops_before_it_begins(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "inputs", search={"rules": ["affine"]})
    with pytest.raises(UsageError, match=r"rule affine .* 8 of 8 writers have no bias tensor .*give search\.rules"):
        usable_rules(Session(config))
    with pytest.raises(UsageError, match="no bias tensor"):
        verbs.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "states").exists()
