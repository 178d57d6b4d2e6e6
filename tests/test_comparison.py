"""A whole comparison on a tiny random model: one budget for all, resumable, analysed again without searching again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from sombrero import verbs
from sombrero.config import RunConfig, load_config
from sombrero.errors import RunError, UsageError
from sombrero.records import DirectionSet
from sombrero.reports.comparison_page import read_comparison, render_comparison
from sombrero.stages.comparing import offered, units_offered
from sombrero.tensor_records import load_record
from tests.commands import ROOT, Command, environment
from tests.tiny_runs import tiny_config

METHODS = ("som", "single", "random")
TRIALS = 3
MOMENTS = ("search: random, seed 3", "measure trial")
KILLED = """
import sys, torch
from pathlib import Path
from sombrero import verbs
from sombrero.config import RunConfig
from tests.killed_runs import Suicide
torch.set_num_threads(1)
config = RunConfig.model_validate_json(Path(sys.argv[1]).read_bytes())
verbs.compare(config, Path(sys.argv[2]), progress=Suicide(sys.argv[3]))
"""


class Compared(NamedTuple):
    """A configuration, the folder of its finished comparison, and what it returned."""

    config: RunConfig
    folder: Path
    found: dict[str, Any]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    base = tmp_path_factory.mktemp("compared")
    config = tiny_config(
        base / "inputs",
        search={"trials": TRIALS, "finalists": 2},
        map={"permutations": 3},
        compare={"methods": METHODS, "seeds": (0, 3), "levels": (0.6, 0.01), "resamples": 200},
    )
    return Compared(config, base / "compare", verbs.compare(config, base / "compare"))


def stable(folder: Path) -> dict[str, bytes]:
    """What a comparison leaves that must not depend on how often it was begun."""
    names = ("compare.json", "compare.html", "figures/compare.svg", "figures/compare.csv")
    trials = {str(p.relative_to(folder)): p.read_bytes() for p in folder.glob("compare/*/*/trials.jsonl")}
    return {name: (folder / name).read_bytes() for name in names} | trials


def trial_times(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.glob("compare/*/*/trials.jsonl")}


def changed(config: RunConfig, **compare: Any) -> RunConfig:
    return config.model_copy(update={"compare": config.compare.model_copy(update=compare)})


def test_every_method_and_seed_gets_the_same_budget(compared: Compared) -> None:
    found = compared.found
    fronts = {(front["method"], front["seed"]): front for front in found["fronts"]}
    assert set(fronts) == {(method, seed) for method in METHODS for seed in (0, 3)}
    assert all(sum(front["trials"].values()) == TRIALS for front in fronts.values())
    for (method, seed), front in fronts.items():
        lines = (compared.folder / "compare" / f"seed-{seed}" / method / "trials.jsonl").read_text().splitlines()
        trials = [json.loads(line) for line in lines]
        assert len(trials) == TRIALS
        assert {trial["parameters"]["directions"] for trial in trials} == {method}
        assert {trial["parameters"]["rule"] for trial in trials} == {"guarded"}
        most = 1 if method == "single" else found["units_offered"]
        assert all(set(trial["parameters"]["units"]) <= set(range(most)) for trial in trials)
        assert 1 <= len(front["measured"]) <= 2
        assert {one["trial"] for one in front["measured"]} <= {point["trial"] for point in front["front"]}
    assert found["rules"] == ["guarded"]


def test_the_first_seed_has_the_map_of_the_run(compared: Compared) -> None:
    """The same procedure: at the run's own seed the sources are those that `sombrero map` makes."""
    for method in METHODS:
        run = load_record(DirectionSet, compared.folder / "map" / f"directions-{method}.safetensors")
        ours = load_record(DirectionSet, compared.folder / "compare" / "seed-0" / method / "directions.safetensors")
        assert torch.equal(ours.vectors, run.vectors) and torch.equal(ours.hit_counts, run.hit_counts)
    maps = [
        load_record(DirectionSet, compared.folder / "compare" / f"seed-{seed}" / "som" / "directions.safetensors")
        for seed in (0, 3)
    ]
    assert not torch.equal(maps[0].vectors, maps[1].vectors)


def test_the_record_says_what_was_returned_and_what_was_not_reached(compared: Compared) -> None:
    found = json.loads((compared.folder / "compare.json").read_bytes())
    assert found == {key: value for key, value in compared.found.items() if key != "run"}
    assert found["format"] == 1
    lowest = [row for row in found["matched"] if row["level"] == 0.01]
    for row in lowest:  # 7 prompts: 1% is reached by an edit that leaves none unanswered, and by no other
        rates = [
            min(one["figures"]["unanswered"]["count"] for one in front["measured"])
            for front in found["fronts"]
            if front["method"] == row["method"]
        ]
        assert row["reached"] == sum(rate == 0 for rate in rates)
        assert (row["first_token"] is None) == (row["reached"] == 0)
    for difference in found["differences"]:
        values = [
            one["first_token_by_seed"] for one in found["matched"]
            if one["method"] in ("som", difference["control"]) and one["level"] == difference["level"]
        ]  # fmt: skip
        known = all(value is not None for row in values for value in row)
        assert (difference["first_token"]["value"] is not None) == known
    assert found["verdict"]["level"] == 0.6


def test_no_answer_is_written(compared: Compared) -> None:
    assert not list(compared.folder.rglob("responses*"))
    for path in compared.folder.rglob("compare-measure-*.json"):
        measurement = json.loads(path.read_bytes())
        assert {key for verdict in measurement["verdicts"] for key in verdict} == {
            "prompt_id", "label", "marker", "n_tokens", "reasoning_refuses",
        }  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_equals_uninterrupted(compared: Compared, tmp_path: Path, moment: str) -> None:
    settings = tmp_path / "config.json"
    settings.write_text(compared.config.model_dump_json(exclude_unset=True))
    command = [sys.executable, "-c", KILLED, str(settings), str(tmp_path / "again"), moment]
    killed = subprocess.run(command, cwd=ROOT, env=environment(OMP_NUM_THREADS="1"), capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "again" / "compare" / "seed-0" / "som" / "trials.jsonl").is_file()
    assert not (tmp_path / "again" / "compare.json").exists()
    verbs.compare(compared.config, tmp_path / "again")
    assert stable(tmp_path / "again") == stable(compared.folder)


def test_other_levels_and_more_seeds_search_no_study_again(compared: Compared, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    shutil.copytree(compared.folder, folder)
    before = trial_times(folder)
    found = verbs.compare(changed(compared.config, levels=(0.5,), seeds=(0, 3)), folder)
    assert found["verdict"]["level"] == 0.5 and trial_times(folder) == before
    fewer = verbs.compare(changed(compared.config, methods=("som", "single")), folder)
    assert {d["control"] for d in fewer["differences"]} == {"single"} and trial_times(folder) == before
    more = verbs.compare(changed(compared.config, methods=("som", "single"), seeds=(0, 3, 4)), folder)
    assert more["seeds"] == [0, 3, 4] and {name: trial_times(folder)[name] for name in before} == before


def test_the_page_and_the_figure_are_made_of_the_record_alone(
    compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (compared.folder / "compare.html").read_text(encoding="utf-8")
    assert compared.found["verdict"]["sentence"] in page
    assert render_comparison(read_comparison(compared.folder)) == page
    assert page.startswith("<!DOCTYPE html>") and "http-equiv" in page and "https://" not in page.split("<script>")[0]
    folder = tmp_path / "again"
    shutil.copytree(compared.folder, folder)
    (folder / "compare.html").unlink()
    assert Command(monkeypatch, capsys)("report", folder).code == 0
    assert stable(folder) == stable(compared.folder)
    assert {p.name for p in (folder / "figures").glob("compare.*")} == {"compare.png", "compare.svg", "compare.csv"}
    (folder / "compare.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        verbs.report(folder)


def test_the_command_line_prints_the_verdict(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sombrero = Command(monkeypatch, capsys)
    outcome = sombrero("compare", compared.folder)
    assert outcome.code == 0 and compared.found["verdict"]["sentence"] in outcome.out.replace("\n", "")
    again = json.loads(sombrero("compare", compared.folder, "--json").out)
    assert again == compared.found
    narrow = json.loads(sombrero("compare", compared.folder, "--methods", "som,single", "--seeds", "0", "--json").out)
    assert narrow["methods"] == ["som", "single"] and narrow["seeds"] == [0]
    wrong = sombrero("compare", compared.folder, "--methods", "single,random")
    assert wrong.code == 2 and "methods must hold som" in wrong.err


def test_values_may_be_joined_by_commas_or_given_apart() -> None:
    joined = load_config(None, {"compare": {"seeds": ["0,4", "2"], "methods": ["som,pca"], "levels": ["0.2,0.1"]}})
    apart = load_config(None, {"compare": {"seeds": [0, 4, 2], "methods": ["som", "pca"], "levels": [0.2, 0.1]}})
    assert joined == apart and joined.compare.seeds == (0, 4, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"methods": ["som"]},
        {"methods": ["som", "single", "som"]},
        {"methods": ["som", "shuffled"]},
        {"seeds": []},
        {"seeds": [-1]},
        {"seeds": ["one"]},
        {"levels": [1.5]},
        {"levels": [0.1, 0.1]},
        {"margin": 0},
        {"resamples": 10},
    ],
)
def test_what_cannot_be_compared_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="compare"):
        load_config(None, {"compare": wrong})


@pytest.mark.parametrize(
    ("section", "values", "says"),
    [
        ("search", {"storage": "sqlite:///x.db"}, "search.storage"),
        ("search", {"goal": "calibrate"}, "goal suppress"),
        ("search", {"workers": 2}, "search.workers is 2.*leave it at 1"),
        ("evaluation", {"keep_responses": True}, "keep_responses"),
    ],
)
def test_settings_without_a_meaning_here_are_refused(section: str, values: dict[str, Any], says: str) -> None:
    config = RunConfig()
    odd = config.model_copy(update={section: getattr(config, section).model_copy(update=values)})
    with pytest.raises(UsageError, match=says):
        verbs.compare(odd, Path("nowhere"))
    assert not Path("nowhere").exists()


def source(method: str, hits: list[int], lengths: list[float]) -> DirectionSet:
    m = len(hits)
    vectors = torch.eye(8)[:m].expand(3, m, 8) * torch.tensor(lengths)[None, :, None]
    counts, zeros = torch.tensor(hits).expand(3, m), torch.zeros(3, m)
    return DirectionSet(method, vectors, counts, counts, zeros, zeros, zeros, zeros, torch.zeros(3, 8))


def test_every_source_is_offered_as_many_directions() -> None:
    full, sparse = source("som", [5, 4, 3, 2], [1] * 4), source("k-means", [9, 5, 0, 0], [1] * 4)
    flat = source("pca", [9, 0, 0, 0], [1, 1, 1, 0])
    single = source("single", [14], [1])
    assert units_offered([full, single], 3) == 3
    assert units_offered([full, sparse, single], 3) == 2
    assert units_offered([full, flat], 4) == 3  # a component has no samples of its own
    kept = offered(full, 2)
    assert kept.vectors.shape == (3, 2, 8) and kept.hit_counts[0].tolist() == [5, 4]
    assert torch.equal(offered(single, 3).vectors, single.vectors)
