"""The configuration of a run: frozen pydantic models. TOML and the command line are two faces of the same model."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sombrero.errors import UsageError
from sombrero.records import RuleName


class Section(BaseModel):
    """Base of every section: frozen, and unknown keys fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Section):
    """Which model, and how it is loaded."""

    source: str = Field("embedded", description="Hub id, local folder, or 'embedded'.")
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit).")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Weight dtype; auto: as stored, or float32 on a processor without arithmetic for that."
    )
    device: str = Field("auto", description="torch device; auto: cuda, then mps, then cpu.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless asked for."
    )
    cache: Path | None = Field(None, description="Cache folder of the embedded model; default: the platform's.")


class PromptConfig(Section):
    """Prompt sources: 'starter', a file (txt, csv, jsonl, parquet), or a dataset (folder or hub id, ``ID:SPLIT``).

    With ``{split}`` in it, a source is read three times, for map, search and report. Without, it is shuffled by the
    seed and cut into these three.
    """

    harmful: str = Field("starter", description="Requests that the model should refuse.")
    harmless: str = Field("starter", description="Plain requests.")
    borderline: str = Field("starter", description="Safe requests that look harmful.")
    column: str = Field("text", description="Column that holds the request.")
    limit: int | None = Field(None, ge=1, description="At most this many prompts of each set and split.")
    search_limit: int | None = Field(None, ge=1, description="At most this many prompts of each set to search with.")
    report_limit: int | None = Field(None, ge=1, description="At most this many prompts of each set to report on.")
    system_prompt: str | None = Field(None, description="System prompt; default: the template's own.")
    max_tokens: int = Field(1024, ge=8, description="A longer rendered prompt is an error.")


class StatesConfig(Section):
    """How hidden states are collected."""

    batch_tokens: int = Field(4096, ge=64, description="Tokens in a forward batch, padding included.")
    key_positions: int = Field(
        5, ge=1, description="Tokens at the end of a prompt whose writer inputs are kept; at most the template's tail."
    )
    key_answer_tokens: int = Field(
        12, ge=0, description="Tokens of an answer's opening whose writer inputs are kept too, for the rule guarded."
    )
    guards: int = Field(360, ge=1, description="At most this many harmless map prompts give guard keys.")
    winsorize: float | None = Field(None, gt=0.5, lt=1, description="Clip each state at this quantile of its |values|.")


class MapConfig(Section):
    """The self-organizing map."""

    n_rows: int = Field(4, ge=1)
    n_columns: int = Field(4, ge=1)
    lattice: Literal["hexagonal", "rectangular"] = "hexagonal"
    toroidal: bool = Field(False, description="Join opposite edges of the grid; a hexagonal one needs even rows.")
    rule: Literal["batch", "online"] = "batch"
    neighbourhood: Literal["gaussian", "bubble", "mexican_hat"] = "gaussian"
    initialization: Literal["random", "pca", "k-means++"] = "random"
    sigma: float = Field(0.3, gt=0)
    learning_rate: float = Field(0.01, gt=0, le=1)
    n_steps: int = Field(10_000, ge=1)
    holdout: float = Field(0.2, gt=0, lt=1, description="Share of the map prompts kept for the units' AUROC.")
    projected: bool = Field(False, description="Remove the component along the harmless mean from each direction.")
    layer_rule: Literal["auroc", "log-odds"] = Field(
        "auroc", description="How the best layer is chosen: by held-out AUROC, or by ablating each layer's direction."
    )
    layer_max_kl: float = Field(0.1, gt=0, description="First-token KL (nats) allowed to a layer by rule 'log-odds'.")
    permutations: int = Field(100, ge=1, description="Shuffled labels that the map is trained on again, for its null.")


class SearchConfig(Section):
    """The search over edits."""

    goal: Literal["suppress"] = "suppress"
    trials: int = Field(48, ge=1, description="Trials in all, screened ones included.")
    rules: tuple[RuleName, ...] = Field(
        ("guarded", "project", "compose"),
        min_length=1,
        description="Of project, compose, affine, norm, guarded; one that cannot be baked into the model is left out.",
    )
    max_units: int = Field(3, ge=1, description="At most this many of the most salient units in one edit.")
    target_rate: float = Field(0.05, ge=0, le=1, description="Pick the cheapest edit with at most this refusal rate.")
    max_kl: float = Field(0.15, gt=0, description="First-token KL (nats) that the picked edit should not exceed.")
    max_leak: float = Field(
        0.1, ge=0, description="A run says when its edit leaves more than this share of the component it is made along."
    )
    finalists: int = Field(3, ge=1, description="Edits of the front re-scored on the reporting prompts.")
    storage: str | None = Field(None, description="Optuna storage URL; default: an SQLite file in the run folder.")


class EvaluationConfig(Section):
    """How a model is measured."""

    detector: Literal["opening", "substring"] = "opening"
    markers: Path | None = Field(None, description="File of substrings, one a line, for the detector 'substring'.")
    max_new_tokens: int = Field(100, ge=1)
    sequence_tokens: int = Field(32, ge=1, description="Length of the base continuation for the sequence KL.")
    batch_size: int = Field(64, ge=1)
    keep_responses: bool = Field(False, description="Write generated text to the run folder. Said in the manifest.")
    samples: int = Field(6, ge=0, description="Harmless and borderline answers of each kind shown in the report.")
    min_base_refusals: float = Field(
        0.1, ge=0, le=1, description="Below this base refusal rate there is nothing to map."
    )

    @model_validator(mode="after")
    def _markers_belong_to_substring(self) -> EvaluationConfig:
        if (self.detector == "substring") != (self.markers is not None):
            raise ValueError("detector 'substring' needs markers = FILE (one substring a line), and only it takes one")
        return self


class RunConfig(Section):
    """Everything that decides the outcome of ``sombrero run``."""

    model: ModelConfig = ModelConfig()
    prompts: PromptConfig = PromptConfig()
    states: StatesConfig = StatesConfig()
    map: MapConfig = MapConfig()
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(0, ge=0)


def load_config(path: Path | None, overrides: dict[str, dict[str, Any]] | None = None) -> RunConfig:
    """Read a TOML file (or the defaults) and lay ``overrides`` (section -> key -> value) over it.

    Raises UsageError when the file cannot be read, is not TOML, or holds an unknown key or a value out of range.
    """
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read the configuration {path}: {error}; give a readable TOML file") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{path} is not valid TOML: {error}") from error
    for section, values in (overrides or {}).items():
        if section == "":
            data.update(values)
        elif values:
            data[section] = {**data.get(section, {}), **values}
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']} (found {e['input']!r})" for e in error.errors()]
        raise UsageError("the configuration is not valid:\n" + "\n".join(lines)) from error
