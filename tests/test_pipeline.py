"""Contracts of a whole run, on a tiny random model: what it leaves and says, how it goes on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sombrero import verbs
from sombrero.config import RunConfig
from sombrero.errors import NumericalError, RunError
from sombrero.evaluation import generate
from sombrero.session import Session
from tests.tiny_runs import TRIALS, tiny_config

ROOT = Path(__file__).parents[1]
FILES = {
    "baseline.json",
    "coverage.json",
    "edit.safetensors",
    "effect.json",
    "leak.json",
    "map/controls.json",
    "map/curves.json",
    "map/directions-k-means.safetensors",
    "map/directions-pca.safetensors",
    "map/directions-random.safetensors",
    "map/directions-shuffled.safetensors",
    "map/directions-single.safetensors",
    "map/directions-som.safetensors",
    "map/layers.json",
    "map/log-odds.json",
    "map/manifold.safetensors",
    "map/map.safetensors",
    "map/quality.safetensors",
    "map/units.json",
    "model/README.md",
    "model/config.json",
    "model/model.safetensors",
    "model/sombrero.json",
    "model/tokenizer.json",
    "report.html",
    "run.json",
    "states/harmful-00000.safetensors",
    "states/harmless-00000.safetensors",
    "study.db",
    "summary.json",
    "trials.jsonl",
    "verification.json",
}
STAGES = [
    "coverage", "baseline", "openings", "states-harmful", "states-harmless", "map", "log-odds", "directions",
    "layers", "units", "quality", "curves", "manifold", "controls",
    "search", "effect", "edit", "leak", "edited-plane", "verification", "summary",
]  # fmt: skip
MOMENTS = (
    "entered=states of harmless",
    "trials=1",
    "trials=3",
    "file=model.partial/model/*.unfinished",
    "entered=measure baked",
)
VARYING = ("seconds", "peak_rss_bytes", "run")


class Finished(NamedTuple):
    """A configuration, the folder of its finished run, and the summary that the run returned."""

    config: RunConfig
    folder: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    base = tmp_path_factory.mktemp("whole")
    config = tiny_config(base / "inputs")
    return Finished(config, base / "run", verbs.run(config, base / "run"))


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def stable(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in VARYING}


def files_below(folder: Path) -> dict[str, int]:
    """Every file of a run but its lock, with the time it was last written."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in paths}


def rate(proportion: dict[str, Any]) -> tuple[int, int]:
    return proportion["count"], proportion["n"]


def test_a_run_leaves_every_file_and_every_stage(finished: Finished) -> None:
    left = files_below(finished.folder)
    assert set(left) >= FILES
    assert not [name for name in left if ".partial" in name or ".unfinished" in name]
    manifest = read(finished.folder / "run.json")
    assert list(manifest["stages"]) == STAGES
    assert manifest["keeps_responses"] is False
    assert set(manifest["versions"]) >= {"sombrero", "python", "torch", "transformers"}
    assert RunConfig.model_validate(manifest["config"]) == finished.config


def test_the_summary_says_what_the_records_say(finished: Finished) -> None:
    folder, summary = finished.folder, finished.summary
    assert read(folder / "summary.json") == {key: value for key, value in summary.items() if key != "run"}
    effect, verification = read(folder / "effect.json"), read(folder / "verification.json")
    chosen = effect["finalists"][0]
    measured = {
        "base": effect["base"],
        "edited": chosen["measurement"],
        "baked": verification["measurement"],
    }
    for name, measurement in measured.items():
        shown = summary[name]
        for count in ("refusals", "false_refusals", "harmless_refusals", "labels"):
            assert shown[count] == measurement[count], (name, count)
        assert shown["coherence"].items() >= measurement["coherence"].items()
        assert shown["kl"] == {k: value for k, value in measurement["kl"].items() if not k.endswith("by_prompt")}
        refusing = [verdict for verdict in measurement["verdicts"] if verdict["label"] == "refusal"]
        assert shown["refusals"]["count"] == len(refusing)
    assert summary["edit"]["trial"] == chosen["number"] == effect["chosen"]
    assert [entry["trial"] for entry in summary["finalists"]] == [entry["number"] for entry in effect["finalists"]]
    assert summary["live_equals_baked"]["flips"] == verification["flips"]
    leaks, leak = read(folder / "leak.json"), summary["coverage"]["leak"]
    assert {entry["layer"] for entry in leaks} == edited_layers(summary["edit"])
    assert leak["layers"] == len(leaks) and leak["max"] == max(entry["ratio"] for entry in leaks)
    assert leak["bound"] == finished.config.search.max_leak
    assert leak["within_bound"] == (leak["max"] <= leak["bound"])
    assert summary["rules_left_out"] == {}
    states = [json.loads(line)["state"] for line in (folder / "trials.jsonl").read_text().splitlines()]
    assert summary["trials"] == {state: states.count(state) for state in ("generated", "screened", "failed")}
    assert len(states) == TRIALS
    assert set(summary["seconds"]) == set(STAGES) - {"summary"}


def edited_layers(edit: dict[str, Any]) -> set[int]:
    """The layers in which a writer has a strength."""
    profiles = [profile for profile in edit["layers"].values() if profile["strength"] > 0]
    return {layer for profile in profiles for layer in range(profile["first"], profile["last"] + 1)}


def test_the_report_prompts_are_no_others(finished: Finished) -> None:
    """What is reported was neither mapped nor searched on."""
    session = Session(finished.config)
    ids = {split: {p.id for p in session.prompts["harmful", split]} for split in ("map", "search", "report")}
    reported = {v["prompt_id"] for v in read(finished.folder / "effect.json")["base"]["verdicts"]}
    searched = {v["prompt_id"] for v in read(finished.folder / "baseline.json")["verdicts"]}
    assert reported == ids["report"] and searched == ids["search"]
    assert ids["report"].isdisjoint(ids["map"] | ids["search"]) and ids["search"].isdisjoint(ids["map"])


def test_the_edit_did_something_and_the_bake_is_the_live_edit(finished: Finished) -> None:
    summary = finished.summary
    effect = read(finished.folder / "effect.json")
    live = next(f for f in effect["finalists"] if f["number"] == effect["chosen"])
    assert live["measurement"]["verdicts"] != effect["base"]["verdicts"]
    own = summary["base"]["kl"]
    assert own["first_token"] == own["sequence"] == 0.0 and own["first_token_agreement"] == 1.0
    assert own["by_position"] == []
    assert summary["edited"]["kl"]["first_token"] > 0.01
    assert summary["live_equals_baked"]["flips"] == []
    assert summary["live_equals_baked"]["max_log_prob_difference"] <= 1e-4
    assert rate(summary["edited"]["refusals"]) == rate(summary["baked"]["refusals"])
    assert summary["coverage"]["max_relative_error"] < 1e-4


def test_the_baked_model_loads_as_any_other(finished: Finished) -> None:
    baked = AutoModelForCausalLM.from_pretrained(finished.folder / "model", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(finished.folder / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert torch.isfinite(baked(ids).logits).all()
    base = load_file(Path(finished.config.model.source) / "model.safetensors")
    changed = [name for name, tensor in baked.state_dict().items() if name in base and not tensor.equal(base[name])]
    assert len(changed) == finished.summary["tensors"]["edited"] > 0
    assert all(name.endswith(("o_proj.weight", "down_proj.weight")) for name in changed)


def test_a_second_call_makes_nothing_again(finished: Finished) -> None:
    before, stages = files_below(finished.folder), read(finished.folder / "run.json")["stages"]
    assert verbs.run(finished.config, finished.folder) == finished.summary
    after = files_below(finished.folder)
    written = {name for name in after if after[name] != before.get(name)}
    # the manifest names the libraries of this process, the report is drawn from the records each time, as is noted
    again = ("run.json", "report.", "map.png", "figures", "progress.json")
    assert {name for name in written if not name.startswith(again)} == set()
    assert set(after) == set(before)
    assert read(finished.folder / "run.json")["stages"] == stages


def test_another_configuration_is_refused_with_what_differs(finished: Finished) -> None:
    stages = read(finished.folder / "run.json")["stages"]
    other = finished.config.model_copy(update={"seed": 1})
    with pytest.raises(RunError, match=r"seed: 0 there, 1 now"):
        verbs.run(other, finished.folder)
    assert read(finished.folder / "run.json")["stages"] == stages


def test_no_text_of_a_harmful_prompts_answer_is_written(finished: Finished) -> None:
    session = Session(finished.config)

    def answers(role: Any) -> set[str]:
        prompts = [p for split in ("map", "search", "report") for p in session.rendered(role, split)]
        return {response.text for response in generate(session.handle, prompts, max_new_tokens=8)}

    texts = {text for text in answers("harmful") - answers("harmless") - answers("borderline") if len(text) >= 4}
    assert len(texts) > 10
    for path in finished.folder.rglob("*"):
        if path.is_file():
            assert not list(found_in(path.read_bytes(), texts)), path


def found_in(data: bytes, texts: set[str]) -> Iterator[str]:
    """Which of the texts the data hold: as they are, or as JSON writes them."""
    for text in texts:
        forms = (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
        if any(form.encode() in data for form in forms):
            yield text


def test_keep_responses_writes_the_text_and_says_so(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "inputs", evaluation={"keep_responses": True}, search={"trials": 2})
    verbs.run(config, tmp_path / "run")
    assert read(tmp_path / "run" / "run.json")["keeps_responses"] is True
    lines = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").read_text().splitlines()]
    session = Session(config)
    prompts = session.rendered("harmful", "report")
    expected = {r.prompt_id: r.text for r in generate(session.handle, prompts, max_new_tokens=8)}
    kept = {line["prompt_id"]: line["text"] for line in lines if line["model"] == "base"}
    assert {name: kept[name] for name in expected} == expected
    assert {line["model"] for line in lines} == {"base", "edited"}


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_summary(finished: Finished, tmp_path: Path) -> None:
    """SIGKILL at five moments, from the first states to the proof of the bake; then the same call again."""
    (tmp_path / "config.json").write_text(finished.config.model_dump_json())
    command = [sys.executable, "-m", "tests.killed_runs", str(tmp_path / "config.json"), str(tmp_path), *MOMENTS]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    result = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    ends = dict(line.split() for line in result.stdout.splitlines())
    for number, moment in enumerate(MOMENTS):
        assert ends[str(number)] == "killed", moment
        folder = tmp_path / str(number)
        assert not (folder / "summary.json").exists(), moment
        made_before = set(read(folder / "run.json")["stages"]) if (folder / "run.json").exists() else set()
        stages = {name: read(folder / "run.json")["stages"][name] for name in made_before}
        summary = verbs.run(finished.config, folder)
        assert stable(summary) == stable(finished.summary), moment
        after = read(folder / "run.json")["stages"]
        assert {name: after[name] for name in made_before} == stages, moment
        assert (folder / "trials.jsonl").read_bytes() == (finished.folder / "trials.jsonl").read_bytes(), moment
        leftovers = [p.name for p in folder.rglob("*") if ".partial" in p.name or ".unfinished" in p.name]
        assert leftovers == [], moment
        weights = "model/model.safetensors"
        assert load_file(folder / weights).keys() == load_file(finished.folder / weights).keys()
        for name, tensor in load_file(folder / weights).items():
            assert tensor.equal(load_file(finished.folder / weights)[name]), (moment, name)


def test_more_trials_continue_the_search(tmp_path: Path) -> None:
    """A run of two trials that is continued to four is a run of four, but for what it measured in between."""
    few = tiny_config(tmp_path / "inputs", search={"trials": 2})
    more = few.model_copy(update={"search": few.search.model_copy(update={"trials": 4})})
    verbs.run(few, tmp_path / "run")
    first = (tmp_path / "run" / "trials.jsonl").read_text().splitlines()
    continued = verbs.run(more, tmp_path / "run")
    whole = verbs.run(more, tmp_path / "whole")
    assert (tmp_path / "run" / "trials.jsonl").read_text().splitlines()[:2] == first
    assert stable(continued) == stable(whole)


def test_the_map_stands_beside_its_controls(tmp_path: Path) -> None:
    """What the verb returns is JSON, holds no prompt, and is about the layer that the rule chose."""
    config = tiny_config(tmp_path / "inputs", map={"layer_rule": "log-odds", "permutations": 7})
    found = verbs.map(config, tmp_path / "run")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    choice, controls = (read(tmp_path / "run" / f"map/{name}.json") for name in ("layers", "controls"))
    assert found["best_state_index"] == choice["state"] == controls["state"]
    assert choice["rule"] == found["layer_rule"] == "log-odds"
    assert len(choice["states"]) == len(choice["log_odds"]) == len(choice["kl"]) == 2
    assert set(found["controls"]) == {"som", "single", "k-means", "pca", "random", "shuffled"}
    assert found["permutations"] == 7 and len(found["statements"]) == 4
    assert [unit["prompts"] for unit in found["units"]] == found["hit_counts"]
    odds = read(tmp_path / "run" / "map/log-odds.json")
    session = Session(config)
    assert set(odds["values"]) == {prompt.id for prompt in session.prompts["harmful", "map"]}
    assert not any(prompt.text in json.dumps(found) for prompt in session.prompts["harmful", "map"])


def test_the_search_uses_the_chosen_layer(tmp_path: Path) -> None:
    """The two rules choose different layers of this model, and each search only its own."""
    chosen = set()
    for rule in ("auroc", "log-odds"):
        config = tiny_config(tmp_path / rule, map={"layer_rule": rule, "permutations": 1}, search={"trials": 14})
        verbs.search(config, tmp_path / rule / "run")
        state = read(tmp_path / rule / "run" / "map/layers.json")["state"]
        lines = (tmp_path / rule / "run" / "trials.jsonl").read_text().splitlines()
        assert {json.loads(line)["parameters"]["map_layer"] for line in lines} == {None, state}
        chosen.add(state)
    assert len(chosen) == 2


def test_a_run_from_before_the_controls_goes_on(finished: Finished, tmp_path: Path) -> None:
    """Settings that it does not know have their defaults; its states and map stay, its directions are made again."""
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    manifest = read(folder / "run.json")
    for name in ("layer_rule", "layer_max_kl", "permutations"):
        del manifest["config"]["map"][name]
    for name in ("log-odds", "layers", "units", "quality", "curves", "manifold", "controls"):
        del manifest["stages"][name]
    manifest["stages"]["directions"]["hash"] = "of a version without controls"
    (folder / "run.json").write_text(json.dumps(manifest))
    for path in (folder / "map").iterdir():
        if path.name not in ("map.safetensors", "directions-som.safetensors", "directions-single.safetensors"):
            path.unlink()
    for name in ("som", "single"):
        path = folder / f"map/directions-{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = {key: t for key, t in load_file(path).items() if key not in ("auroc_low", "auroc_high", "log_odds")}
        save_file(tensors, path, metadata=metadata)
    verbs.map(finished.config, folder)
    after = read(folder / "run.json")["stages"]
    kept = ("coverage", "baseline", "openings", "states-harmful", "states-harmless", "map")
    assert {name: after[name] for name in kept} == {name: manifest["stages"][name] for name in kept}
    for name in ("map/directions-som.safetensors", "map/layers.json", "map/curves.json"):
        assert (folder / name).read_bytes() == (finished.folder / name).read_bytes()


def test_a_changed_checkpoint_is_noticed(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "inputs")
    verbs.map(config, tmp_path / "run")
    weights = Path(config.model.source) / "model.safetensors"
    save_file({name: tensor * 1.5 for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    with pytest.raises(RunError, match="checkpoint changed since it began"):
        verbs.map(config, tmp_path / "run")


def test_a_model_that_hardly_refuses_has_nothing_to_map(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "inputs")
    Path(str(config.evaluation.markers)).write_text("a marker that no answer holds\n")
    with pytest.raises(RunError, match=r"refuses 0/5 harmful search prompts: nothing to map"):
        verbs.run(config, tmp_path / "run")
    assert list(read(tmp_path / "run" / "run.json")["stages"]) == ["coverage", "baseline"]
    assert rate(read(tmp_path / "run" / "baseline.json")["refusals"]) == (0, 5)


@pytest.mark.parametrize("verb", [verbs.run, verbs.map])
def test_weights_that_are_not_finite_name_the_layer_and_the_prompt(verb: Any, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "inputs")
    weights = Path(config.model.source) / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.2.mlp.down_proj.weight"][3, 3] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(NumericalError, match=r"layer 2\b.*prompt 'harm(ful|less)-\d+'"):
        verb(config, tmp_path / "run")
