"""Tasks of lm-evaluation-harness on a loaded model and on a live edit; what is said when they cannot be run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sombrero import verbs
from sombrero.config import load_config
from sombrero.errors import UsageError
from sombrero.evaluation import run_tasks
from tests.evaluation.subjects import LiveSubjects, as_subject, tiny_handle
from tests.tiny_models import save_tiny
from tests.tiny_runs import tiny_settings

needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None or find_spec("accelerate") is None,
    reason="LM-EVAL IS NOT INSTALLED, SO TASKS ARE NOT TESTED: pip install -e '.[lm-eval]' -c constraints.txt",
)
QUESTIONS = [
    {"question": f"{a} and {b}?", "choices": ["yes", "no", "some more"], "answer": (a + b) % 3}
    for a in range(4)
    for b in range(5)
]
TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file and its samples; the data set is cached below the test's own folder."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    if find_spec("datasets"):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    (tasks / "tiny_choice.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    return tasks


def chosen(handle: Any, question: str, choices: list[str]) -> int:
    """The likeliest choice after the question and a space, one token at a time."""

    def log_prob(choice: str) -> float:
        start = handle.tokenizer(question, add_special_tokens=False)["input_ids"]
        ids = handle.tokenizer(f"{question} {choice}", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            log_probs = handle.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        return sum(float(log_probs[i - 1, ids[i]]) for i in range(len(start), len(ids)))

    values = [log_prob(choice) for choice in choices]
    return values.index(max(values))


@needs_harness
def test_a_task_is_scored_live_and_untouched(folder: Path) -> None:
    """Accuracy is what a count by hand gives, with the hook of a live edit and without it; the hook is gone after."""
    live = LiveSubjects(tiny_handle(), factor=-3.0)
    base = run_tasks(live.base, ["tiny_choice"], folder=folder)
    edited = run_tasks(live.edited, ["tiny_choice"], folder=folder)
    again = run_tasks(live.base, ["tiny_choice"], folder=folder)
    for found, subject in ((base, live.base), (edited, live.edited)):
        with subject() as handle:
            hits = [chosen(handle, q["question"], q["choices"]) == q["answer"] for q in QUESTIONS]
        (result,) = found
        share = sum(hits) / len(hits)
        assert (result.task, result.metric, result.n, result.version) == ("tiny_choice", "acc", 20, "1.5")
        assert result.value == pytest.approx(share) and result.higher_is_better is True
        assert result.stderr == pytest.approx((share * (1 - share) / 19) ** 0.5)
    assert base == again != edited


@needs_harness
def test_tasks_are_part_of_a_measurement(folder: Path, tmp_path: Path) -> None:
    """Of both models, in the document and on the page; measured twice it is the same."""
    settings = tiny_settings(tmp_path / "model")
    settings["prompts"]["report_limit"] = 2
    base = str(save_tiny("llama", tmp_path / "base", seed=5))
    asked: dict[str, Any] = {"against": base, "tasks": ["tiny_choice"], "task_path": folder, "task_limit": 6}
    found = verbs.measure(load_config(None, settings), **asked, out=tmp_path / "out")
    for model in ("model", "against"):
        (result,) = found["tasks"][model]
        assert (result["task"], result["n"]) == ("tiny_choice", 6)
    assert found["settings"]["task_limit"] == 6
    page = (tmp_path / "out" / "measurement.html").read_bytes()
    assert page.count(b"tiny_choice") == 2
    verbs.measure(load_config(None, settings), **asked, out=tmp_path / "again")
    for name in ("measurement.json", "measurement.html"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


@needs_harness
def test_fewer_samples(folder: Path) -> None:
    (result,) = run_tasks(as_subject(tiny_handle()), ["tiny_choice"], folder=folder, limit=5)
    assert result.n == 5


@needs_harness
def test_what_cannot_be_run_is_said(folder: Path, tmp_path: Path) -> None:
    subject = as_subject(tiny_handle())
    with pytest.raises(UsageError, match="there is no folder"):
        run_tasks(subject, ["tiny_choice"], folder=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="hold no name"):
        run_tasks(subject, ["tiny_choice", ""], folder=folder)
    (tmp_path / "questions.jsonl").unlink()
    with pytest.raises(UsageError, match="tiny_choice cannot be run"):
        run_tasks(subject, ["tiny_choice"], folder=folder)


@needs_harness
@pytest.mark.slow
def test_a_task_that_nobody_has_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="knows no task 'no_such_task'"):
        run_tasks(as_subject(tiny_handle()), ["no_such_task"], folder=folder)


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = importlib.import_module

    def missing(name: str, *arguments: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ModuleNotFoundError("No module named 'lm_eval'")
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=r"No module named 'lm_eval'.*pip install 'sombrero\[lm-eval\]'"):
        run_tasks(as_subject(tiny_handle()), ["tiny_choice"])
