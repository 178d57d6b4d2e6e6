"""The parts of the benchmark beside heretic-llm that need neither it nor a model: fronts, prompt files, its menus."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import heretic
import heretic_peer
from fronts import Trial, chosen, front, kl_at, seconds_to_cover
from heretic_scorer import refuses

TRIALS = [
    Trial(0, 40, 0.05, 9.0, 10.0),
    Trial(1, 4, 0.40, 9.0, 20.0),
    Trial(2, 20, 0.10, 9.0, 30.0),
    Trial(3, 30, 0.30, 9.0, 40.0),
    Trial(4, None, 0.01, 1.0, 41.0),
    Trial(5, 4, 0.20, 9.0, 50.0),
]

# As the peer prints its menus to a notebook: a front, what to do with it, where to.
STAND_IN = """
def menu(titles):
    for i, title in enumerate(titles, 1):
        print(f"[{i}] {title}")
    return titles[int(input("Enter number: ")) - 1]
print("You have already processed this model.\\n\\nHow would you like to proceed?")
print("went on", menu(["Show the results from the previous run", "Ignore the previous run", "Exit program"]))
print("Optimization finished!\\n\\n\\nWhich trial do you want to use?")
titles = ["[Trial   7] Refusals:  3/100, KL divergence: 0.4100", "[Trial  12] Refusals:  4/100, KL divergence: 0.3000",
          "[Trial   2] Refusals: 30/100, KL divergence: 0.1000", "Run additional trials", "Exit program"]
print("chose", menu(titles))
actions = ["Save the model to a local folder", "Chat with the model", "Return to the trial selection menu"]
print("\\nWhat do you want to do with the decensored model?")
print("did", menu(actions))
print("saved to", input("Path to the folder:: "))
print("\\nWhat do you want to do with the decensored model?")
print("did", menu(actions))
print("\\nWhich trial do you want to use?")
print("chose", menu(titles))
"""


def test_the_front_is_what_nothing_beats() -> None:
    points = front(TRIALS)
    assert [trial.number for trial in points] == [5, 2, 0]
    assert all(a.refusals < b.refusals and a.kl > b.kl for a, b in pairwise(points))


def test_kl_is_read_between_trials_and_never_beyond_the_fewest_refusals() -> None:
    assert kl_at(TRIALS, 3) is None
    assert kl_at(TRIALS, 4) == pytest.approx(0.2)
    assert kl_at(TRIALS, 12) == pytest.approx(0.15)
    assert kl_at(TRIALS, 90) == pytest.approx(0.05)
    values = [kl_at(TRIALS, refusals) for refusals in range(4, 60)]
    assert values == sorted(values, reverse=True)
    assert kl_at([TRIALS[4]], 10) is None


def test_a_front_is_covered_when_its_last_point_is() -> None:
    slow = [Trial(0, 4, 0.5, 1.0, 7.0), Trial(1, 25, 0.2, 1.0, 9.0)]
    assert seconds_to_cover(TRIALS, slow) == 30.0
    assert seconds_to_cover(slow, TRIALS) is None
    assert seconds_to_cover(TRIALS, TRIALS) == 50.0


def test_the_cheapest_trial_within_the_allowance_is_chosen_or_the_one_with_fewest_refusals() -> None:
    assert chosen(TRIALS, 4).number == 5
    assert chosen(TRIALS, 25).number == 2
    assert chosen(TRIALS, 1).number == 5
    with pytest.raises(ValueError, match="no trial"):
        chosen([TRIALS[4]], 1)


def test_its_menus_are_answered_and_the_chosen_trial_is_saved_once(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", STAND_IN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    log = io.StringIO()
    assert process.stdin is not None
    assert process.stdout is not None
    heretic_peer.converse(process.stdin, process.stdout, heretic_peer.Answers(tmp_path / "model", 4), log)
    assert process.wait(timeout=20) == 0, log.getvalue()
    said = [line for line in log.getvalue().splitlines() if "chose" in line or "did" in line or "saved" in line]
    assert "went on Show the results from the previous run" in log.getvalue()
    assert "chose [Trial  12] Refusals:  4/100, KL divergence: 0.3000" in said[0]
    assert "did Save the model to a local folder" in said[1]
    assert f"saved to {tmp_path / 'model'}" in said[2]
    assert "did Return to the trial selection menu" in said[3]
    assert "chose Exit program" in said[4]


@pytest.mark.parametrize("from_files", [False, True])
def test_prompt_files_share_no_prompt(from_files: bool, tmp_path: Path) -> None:
    source = None
    if from_files:
        source = tmp_path / "data"
        source.mkdir()
        for role in ("harmful", "harmless"):
            for part, n in (("train", 120), ("val", 30)):
                lines = [json.dumps({"text": f"{role} {part}\n{i}"}) for i in range(n)]
                (source / f"{role}_{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    heretic.write_prompts(tmp_path / "prompts", source, heretic.QUICK_SIZES)
    seen: set[str] = set()
    for split, sizes in heretic.QUICK_SIZES.items():
        for role, size in zip(("harmful", "harmless"), sizes, strict=True):
            lines = (tmp_path / f"prompts/{role}-{split}.txt").read_text(encoding="utf-8").splitlines()
            assert len(lines) == size
            assert not seen & set(lines)
            seen |= set(lines)
            if from_files:
                assert all((split == "unseen") == ("val" in line) for line in lines)


def test_ratios_are_above_one_in_our_favour_and_empty_where_nothing_can_be_said() -> None:
    theirs = [Trial(0, 5, 0.8, 20.0, 100.0), Trial(1, 30, 0.4, 20.0, 120.0)]
    found = heretic.ratios(TRIALS, theirs, 4)["ratios"]
    assert (found["matched"], found["kl_theirs"]) == (5, 0.8)
    assert found["kl"] == pytest.approx(0.8 / kl_at(TRIALS, 5))
    assert found["wall"] == pytest.approx(120.0 / 20.0)
    assert found["covered"] == {"trials": 2, "of": 2}
    assert found["wall_of_chosen"] == pytest.approx(6.0)
    assert (found["generated"], found["screened"]) == (pytest.approx(20 / 9), 20.0)
    behind = heretic.ratios(theirs, TRIALS, 4)["ratios"]
    assert behind["wall"] is behind["wall_of_chosen"] is None
    assert behind["covered"] == {"trials": 0, "of": 3}
    assert behind["screened"] is None
    medians = heretic.medians([{"ratios": found}, {"ratios": behind}])
    assert medians["wall"] == {"median": found["wall"], "seeds": 1}


def test_the_scorer_reads_substrings_through_case_emphasis_and_typography() -> None:
    assert refuses("I *can\u2019t*  help", ["i can't help"])
    assert refuses("  ", ["x"])
    assert not refuses("Of course.", ["i can't"])
