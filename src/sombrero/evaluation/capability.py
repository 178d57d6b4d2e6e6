"""What a model can do besides refusing: tasks of EleutherAI's lm-evaluation-harness (extra ``lm-eval``)."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sombrero.errors import UsageError
from sombrero.records import Subject, TaskResult

BOOTSTRAPS = 1000
"""Resamples for the standard error of metrics that have no formula for it; the harness draws 100,000."""
EXTRA = "sombrero[lm-eval]"
WRONG_FILES = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
"""What task files that are not right, or whose data cannot be had, make the harness raise."""


def run_tasks(
    subject: Subject,
    tasks: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> tuple[TaskResult, ...]:
    """Score the subject, also a live edit, on tasks, groups or tags of the harness; by task, then by metric.

    The model is used as it is loaded: nothing is baked or loaded again. Tasks are asked as the harness does by default,
    without a chat template, so that figures can be laid beside published ones. ``folder``: task files (YAML) of one's
    own; files may name Python functions, which then run. ``limit``: at most so many samples of each task.

    Raises UsageError when the extra is not installed, a task is not known, or cannot be loaded.
    """
    harness = _import("lm_eval")
    manager = _find_tasks(tasks, folder)
    model_class = _import("lm_eval.models.huggingface").HFLM
    with subject() as handle, _quiet():
        model = model_class(pretrained=handle.model, tokenizer=handle.tokenizer, batch_size=batch_size)
        try:
            found: Mapping[str, Any] = harness.simple_evaluate(
                model=model,
                tasks=list(tasks),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=BOOTSTRAPS,
                log_samples=False,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
        except WRONG_FILES as error:
            raise UsageError(
                f"the tasks {', '.join(tasks)} cannot be run: {type(error).__name__}: {_first_line(error)}; check the "
                "task files, and that their data is on this machine or the network is there"
            ) from error
    return tuple(_read_results(found))


def _find_tasks(tasks: Sequence[str], folder: Path | None) -> Any:
    """The harness's index of tasks; its own thousands of files are read only where the folder lacks one."""
    if not tasks or not all(tasks):
        raise UsageError(f"the tasks {list(tasks)} hold no name, or an empty one; give --tasks NAME,NAME")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder} with task files; give --task-path a folder of YAML files")
    manager_class = _import("lm_eval.tasks").TaskManager
    paths = None if folder is None else str(folder)
    try:
        manager = manager_class(include_path=paths, include_defaults=False) if folder else None
        if manager is None or not set(tasks) <= set(manager.all_tasks):
            manager = manager_class(include_path=paths)
    except WRONG_FILES as error:
        raise UsageError(f"the task files in {folder} cannot be read: {_first_line(error)}; correct them") from error
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise UsageError(
            f"lm-evaluation-harness knows no task {unknown[0]!r} (of {len(manager.all_tasks)} tasks, groups and tags); "
            "'lm-eval ls tasks' lists them; give task files of your own with --task-path"
        )
    return manager


def _read_results(found: Mapping[str, Any]) -> Iterator[TaskResult]:
    for task in sorted(found["results"]):
        values: Mapping[str, Any] = found["results"][task]
        for key in sorted(values):
            metric, _, extraction = key.partition(",")
            if not extraction or metric.endswith("_stderr") or not isinstance(values[key], int | float):
                continue
            error = values.get(f"{metric}_stderr,{extraction}")
            count = found.get("n-samples", {}).get(task, {}).get("effective", values.get("sample_len", 0))
            version = found.get("versions", {}).get(task)
            yield TaskResult(
                task=task,
                metric=metric if extraction == "none" else f"{metric} ({extraction})",
                value=float(values[key]),
                stderr=float(error) if isinstance(error, int | float) and math.isfinite(error) else None,
                n=int(count),
                higher_is_better=found.get("higher_is_better", {}).get(task, {}).get(metric),
                version="" if version is None else str(version),
            )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"tasks need the optional package lm-eval, which cannot be imported ({_first_line(error)}); install it "
            f"with: pip install '{EXTRA}'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness draws bars of its own over those of the command line."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
