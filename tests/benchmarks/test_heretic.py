"""The parts of the benchmark beside heretic-llm that need neither it nor a model: fronts, prompt files, its menus."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import heretic
import heretic_ours
import heretic_peer
import heretic_report
from fronts import Trial, chosen, front, kl_at, seconds_to_cover
from heretic_scorer import refuses
from sombrero.config import RunConfig

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
    heretic.write_prompts(tmp_path / "prompts", heretic.divide_prompts(source, heretic.QUICK_SIZES))
    seen: set[str] = set()
    for split, sizes in heretic.QUICK_SIZES.items():
        for role, size in zip(("harmful", "harmless"), sizes, strict=True):
            lines = (tmp_path / f"prompts/{role}-{split}.txt").read_text(encoding="utf-8").splitlines()
            assert len(lines) == size
            assert not seen & set(lines)
            seen |= set(lines)
            if from_files:
                assert all((split == "unseen") == ("val" in line) for line in lines)


THEIRS = [Trial(0, 5, 0.8, 20.0, 100.0), Trial(1, 30, 0.4, 20.0, 120.0)]


def test_ratios_are_above_one_in_our_favour() -> None:
    found = heretic_report.ratios(TRIALS, THEIRS, 4)
    assert (found["matched"], found["kl_theirs"]) == (5, 0.8)
    assert found["kl"] == pytest.approx(0.8 / kl_at(TRIALS, 5))
    assert found["wall"] == pytest.approx(120.0 / 20.0)
    assert found["covered"] == {"trials": 2, "of": 2}
    assert found["wall_of_chosen"] == pytest.approx(6.0)
    assert (found["generated"], found["screened"]) == (pytest.approx(20 / 9), 20.0)


def test_what_is_never_reached_counts_as_zero_and_what_is_not_measured_as_none() -> None:
    behind = heretic_report.ratios(THEIRS, TRIALS, 4)
    assert (behind["kl"], behind["wall"], behind["wall_of_chosen"]) == (0.0, 0.0, 0.0)
    assert behind["covered"] == {"trials": 0, "of": 3}
    assert behind["screened"] is None


def test_one_lucky_seed_of_three_does_not_reach_a_goal() -> None:
    lucky = {"kl": 9.0, "wall": 30.0, "wall_of_chosen": 30.0, "generated": 4.0, "screened": 20.0}
    never = {"kl": 0.0, "wall": 0.0, "wall_of_chosen": 0.0, "generated": 4.0, "screened": None}
    found = heretic_report.medians([{"ratios": lucky}, {"ratios": never}, {"ratios": never}])
    assert heretic_report.verdict("wall", found["wall"], 3) == "0.00 (goal 10: MISSED), never on 2 of 3 seeds"
    assert "MISSED" in heretic_report.verdict("screened", found["screened"], 3)
    assert heretic_report.verdict("generated", found["generated"], 3) == "4.00 (goal 3: reached)"
    assert "goal" not in heretic_report.verdict("wall_of_chosen", found["wall_of_chosen"], 3)


def test_what_is_printed_follows_from_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    score = {"n": 9, "substring": 1, "opening": 2, "broken": 3, "first_token_kl": 0.1234, "sequence_kl": 0.0567}
    packed = {
        name: heretic.pack((trials, {"seconds": 7.0})) for name, trials in (("sombrero", TRIALS), ("heretic", THEIRS))
    }
    scores = {"sombrero": {"search": score, "unseen": score}}
    run = {"seed": 3, "allowed": 4, "scores": scores, "ratios": heretic_report.ratios(TRIALS, THEIRS, 4)} | packed
    heretic_report.print_run(run)
    heretic_report.print_medians(heretic_report.medians([run]), 1)
    out = capsys.readouterr().out
    assert "heretic reached 5 refusals at best, not the 4 allowed" in out
    assert "substring 1/9, opening 2/9, broken 3; KL first token 0.1234, sequence 0.0567" in out
    assert "at least as good as 2 of 2 trials of heretic's front, and as the one that heretic chose in 1/6.0" in out
    assert "wall time until its front is covered: 6.00 (goal 10: MISSED)" in out


def a_protocol(folder: Path) -> heretic_peer.Protocol:
    return heretic_peer.Protocol(
        folder / "model", folder / "prompts", "Be kind", ("i won't",), 32, 100, 40, "float32", 5
    )


def test_both_configurations_say_the_same(tmp_path: Path) -> None:
    protocol = a_protocol(tmp_path)
    theirs = heretic_peer.configuration(protocol)
    ours = heretic_ours.configuration(protocol, tmp_path / "markers.txt", 0.04)
    RunConfig.model_validate(ours)  # a setting that was renamed fails here, not an hour into a run
    assert theirs["model"] == ours["model"]["source"]
    assert theirs["dtypes"] == [ours["model"]["dtype"]]
    assert theirs["system_prompt"] == ours["prompts"]["system_prompt"]
    assert theirs["max_response_length"] == ours["evaluation"]["max_new_tokens"]
    assert theirs["batch_size"] == ours["evaluation"]["batch_size"]
    assert (theirs["n_trials"], theirs["n_startup_trials"]) == (ours["search"]["trials"], 12)
    assert theirs["seed"] == ours["seed"] == 5
    for role, name in (("harmful", "bad"), ("harmless", "good")):
        pattern = ours["prompts"][role]
        assert theirs[f"{name}_prompts"]["dataset"] == pattern.format(split="map")
        assert theirs[f"{name}_evaluation_prompts"]["dataset"] == pattern.format(split="search")


def test_its_journal_is_read_by_an_optuna_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "checkpoints/model.jsonl")))
    study = optuna.create_study(study_name="heretic", storage=storage, directions=["minimize", "minimize"])
    began = time.time()
    done, cut = study.ask(), study.ask()
    done.set_user_attr("refusals", 4)
    done.set_user_attr("kl_divergence", 0.25)
    study.tell(done, [0.25, 0.04])
    study.tell(cut, state=optuna.trial.TrialState.FAIL)
    (trial,) = heretic_peer.read_trials(Path(sys.executable), tmp_path, began)
    assert (trial.number, trial.refusals, trial.kl) == (0, 4, 0.25)
    assert 0 <= trial.seconds <= trial.at <= time.time() - began + 0.01
    assert heretic_peer.read_trials(Path(sys.executable), tmp_path / "nowhere", began) == []


def test_a_folder_of_another_setting_is_refused(tmp_path: Path) -> None:
    heretic.hold_to(tmp_path, asdict(a_protocol(tmp_path)) | {"threads": 1})
    heretic.hold_to(tmp_path, asdict(a_protocol(tmp_path)) | {"threads": 1})
    with pytest.raises(SystemExit, match="threads 1, now 2"):
        heretic.hold_to(tmp_path, asdict(a_protocol(tmp_path)) | {"threads": 2})
    heretic.write_prompts(tmp_path / "prompts", {"harmful-map": ["a"]})
    with pytest.raises(SystemExit, match="other prompts"):
        heretic.write_prompts(tmp_path / "prompts", {"harmful-map": ["b"]})
    assert (tmp_path / "prompts/harmful-map.txt").read_text(encoding="utf-8") == "a\n"


def test_a_finished_half_is_not_done_again(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        assert heretic.once(tmp_path / "half.json", lambda: made.append(1) or {"x": 1}) == {"x": 1}  # type: ignore[func-returns-value]
    assert made == [1]


@pytest.mark.peer
def test_the_whole_of_it_runs(tmp_path: Path) -> None:
    """Installs the peer if it is not there (needs a package index), and runs both tools: about ten minutes a core."""
    command = [sys.executable, heretic.__file__, "--quick", "--threads", "1", "--work", str(tmp_path / "work")]
    subprocess.run([*command, "--json", str(tmp_path / "figures.json")], check=True)
    (run,) = json.loads((tmp_path / "figures.json").read_bytes())["runs"]
    assert len(run["heretic"]["trials"]) == len(run["sombrero"]["trials"]) == 4
    assert all(0 < trial["seconds"] < trial["at"] for name in ("heretic", "sombrero") for trial in run[name]["trials"])
    base, *edited = (run["scores"][name]["search"] for name in ("base", "heretic", "sombrero"))
    assert base["first_token_kl"] == 0
    assert all(s["first_token_kl"] > 0 and s["substring"] < base["substring"] for s in edited)


def test_the_scorer_reads_substrings_through_case_emphasis_and_typography() -> None:
    assert refuses("I *can\u2019t*  help", ["i can't help"])
    assert refuses("  ", ["x"])
    assert not refuses("Of course.", ["i can't"])
