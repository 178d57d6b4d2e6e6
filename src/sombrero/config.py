"""The configuration of a run: frozen pydantic models. TOML and the command line are two faces of the same model."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sombrero.errors import UsageError
from sombrero.records import Goal, MethodName, RuleName


class Section(BaseModel):
    """Base of every section: frozen, and unknown keys fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def read_pairs(value: Any, name: str, form: str) -> Any:
    """``A=1,B=2`` of a command line as a mapping; anything else as it is."""
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError(f"give {name} as {form}, several with commas between them")
    return {key.strip(): item.strip() for key, _, item in pairs}


class ModelConfig(Section):
    """Which model, and how it is loaded."""

    source: str = Field("embedded", description="Hub id, local folder, GGUF file, 'embedded', or 'embedded-parts'.")
    revision: str | None = Field(None, description="Hub revision (branch, tag or commit).")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="Weight dtype; auto: as stored, or float32 on a processor without arithmetic for that."
    )
    device: str = Field("auto", description="torch device; auto: cuda, then mps, then cpu.")
    trust_remote_code: bool = Field(
        False, description="Run Python code that comes with the model. Off unless asked for."
    )
    cache: Path | None = Field(
        None, description="Cache folder of the embedded model and of unpacked GGUF files; default: the platform's."
    )
    quantization: Literal["none", "bnb-8bit", "bnb-4bit"] = Field(
        "none", description="Quantize the weights at load, with bitsandbytes. A bake edits the checkpoint as it lies."
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        None, description="Spread the model over GPUs, memory and disk; default: auto where max_memory is given."
    )
    max_memory: dict[str, str] = Field(
        {}, description="Most memory for weights on each device, as 0=20GiB,cpu=48GiB; what does not fit goes to disk."
    )
    offload_folder: Path | None = Field(
        None, description="Folder for weights on disk that must be written anew, as those of fused experts."
    )
    architecture_file: Path | None = Field(
        None, description="Architecture entry of your own, as 'inspect --propose' prints it; read before ours."
    )

    @field_validator("max_memory", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """On the command line ``DEVICE=SIZE,DEVICE=SIZE``."""
        return read_pairs(value, "max_memory", "DEVICE=SIZE")

    @field_validator("max_memory")
    @classmethod
    def _sizes(cls, value: dict[str, str]) -> dict[str, str]:
        for device, size in value.items():
            if not re.fullmatch(r"cpu|mps|\d+", device) or not re.fullmatch(r"\d+(\.\d+)?[KMGT]i?B", size):
                raise ValueError(
                    f"max_memory has {device}={size}; give a GPU's number, cpu or mps, and a size as 20GiB or 800MB"
                )
        return value


class PromptConfig(Section):
    """Prompt sources: 'starter', a file (txt, csv, jsonl, parquet), or a dataset (folder or hub id, ``ID:SPLIT``).

    With ``{split}`` in it, a source is read three times, for map, search and report. Without, it is shuffled by the
    seed and cut into these three; ``measure``, which fits nothing, takes all of it.
    """

    harmful: str = Field("starter", description="Requests that the model should refuse.")
    harmless: str = Field("starter", description="Plain requests.")
    borderline: str = Field("starter", description="Safe requests that look harmful.")
    contrast: str = Field(
        "starter", description="Short harmful requests that look like the borderline ones; read by goal 'calibrate'."
    )
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

    goal: Goal = Field(
        "suppress", description="suppress: fewest refusals. calibrate: fewest false ones, true refusals kept."
    )
    trials: int = Field(48, ge=1, description="Trials in all, screened ones included.")
    rules: tuple[RuleName, ...] = Field(
        ("guarded", "project", "compose"),
        min_length=1,
        description="Of project, compose, affine, norm, guarded; one that cannot be baked into the model is left out.",
    )
    max_units: int = Field(3, ge=1, description="At most this many of the most salient units in one edit.")
    max_refusals: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Pick the cheapest edit with at most this rate of (by 'calibrate', false) refusals.",
    )
    max_kl: float = Field(0.15, gt=0, description="First-token KL (nats) that the picked edit should not exceed.")
    keep_true_refusals: float = Field(
        0.95, ge=0, le=1, description="Rate of true refusals that the edit picked by 'calibrate' should keep."
    )
    max_leak: float = Field(
        0.1, ge=0, description="A run says when its edit leaves more than this share of the component it is made along."
    )
    finalists: int = Field(3, ge=1, description="Edits of the front re-scored on the reporting prompts.")
    patience: int | None = Field(
        None, ge=1, description="Stop after this many generated trials in a row that leave the front as it was."
    )
    workers: int = Field(
        1, ge=1, description="Processes that score trials side by side, each with a model of its own in memory."
    )
    warm_from: Path | None = Field(None, description="Folder of an earlier run: its front is tried first.")
    storage: str | None = Field(None, description="Optuna storage URL; default: an SQLite file in the run folder.")


class EvaluationConfig(Section):
    """How a model is measured."""

    detector: str = Field(
        "opening",
        description="opening, substring, classifier, judge, or a detector that another package adds; 'measure' takes "
        "several: the first gives the verdicts, and how far the others agree with it is measured.",
        json_schema_extra={"repeatable": True},
    )
    other_detectors: tuple[str, ...] = Field(
        (), description="Further detectors of 'measure'; a list of detectors in its place says the same."
    )
    markers: Path | None = Field(None, description="File of substrings, one a line, for the detector 'substring'.")
    thinking: Literal["closed", "on", "off"] = Field(
        "closed",
        description="Reasoning: closed in advance; on, the final answer is scored (raise max_new_tokens); or off, as "
        "far as the chat template can.",
    )
    max_new_tokens: int = Field(100, ge=1)
    sequence_tokens: int = Field(32, ge=1, description="Length of the base continuation for the sequence KL.")
    batch_size: int = Field(128, ge=1, description="Prompts answered at once, at most; fewer where memory is short.")
    keep_responses: bool = Field(False, description="Write generated text to the run folder. Said in the manifest.")
    samples: int = Field(6, ge=0, description="Harmless and borderline answers of each kind shown in the report.")
    min_base_refusals: float = Field(
        0.1, ge=0, le=1, description="Below this base refusal rate there is nothing to map."
    )

    classifier: str | None = Field(
        None, description="Hub id or folder of a sequence classifier, for the detector 'classifier'."
    )
    classifier_labels: dict[str, str] = Field(
        {}, description="What each label of the classifier means, as LABEL_0=answer,LABEL_1=refusal."
    )
    classifier_pair: bool = Field(False, description="The classifier reads the prompt with the response.")
    judge_url: str | None = Field(
        None, description="Base URL of an OpenAI-compatible endpoint, for the detector 'judge'."
    )
    judge_model: str | None = Field(None, description="Model that the endpoint is asked for.")
    judge_key_variable: str | None = Field(
        None,
        pattern="^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the environment variable that holds the endpoint's API key; never the key itself.",
    )
    judge_remote: bool = Field(
        False, description="Send prompts and responses, harmful ones too, to a judge on another machine."
    )
    judge_concurrency: int = Field(4, ge=1, description="Questions to the judge at a time.")
    judge_timeout: float = Field(60.0, gt=0, description="Seconds that the judge has for one reply.")
    judge_retries: int = Field(3, ge=0, description="Further attempts, ever later, when the judge cannot be reached.")
    judge_per_minute: float | None = Field(None, gt=0, description="At most this many questions a minute.")
    judge_outage: Literal["error", "unknown"] = Field(
        "error", description="A judge that cannot be reached ends the run, or leaves the verdict 'unknown'."
    )
    judge_cache: Path | None = Field(None, description="Folder that keeps the judge's labels; default: the platform's.")

    @property
    def detectors(self) -> tuple[str, ...]:
        """Every detector by name, that of the verdicts first."""
        return (self.detector, *self.other_detectors)

    @model_validator(mode="before")
    @classmethod
    def _several_detectors(cls, data: Any) -> Any:
        """A list of detectors, or names with commas between them, is the first one and the others."""
        if not isinstance(data, dict) or not isinstance(data.get("detector"), str | list | tuple):
            return data
        given = data["detector"]
        parts = given.split(",") if isinstance(given, str) else [n for name in given for n in str(name).split(",")]
        names = [name.strip() for name in parts]
        if len(names) < 2 and isinstance(given, str):
            return data
        if not names or not all(names):
            raise ValueError("detector names no detector, or an empty one; give one, or several with commas between")
        return {**data, "detector": names[0], "other_detectors": tuple(names[1:])}

    @field_validator("classifier_labels", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """On the command line a mapping is ``NAME=LABEL,NAME=LABEL``."""
        return read_pairs(value, "classifier_labels", "NAME=LABEL")

    @field_validator("judge_url")
    @classmethod
    def _no_secret_in_the_url(cls, value: str | None) -> str | None:
        """The manifest of a run holds this address."""
        if value is None:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                "judge_url must begin with http:// or https:// and name a host, as http://127.0.0.1:8000/v1"
            )
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "judge_url must hold no user, password or query, as the run's manifest would keep them; give a key "
                "through judge_key_variable"
            )
        return value

    @model_validator(mode="after")
    def _settings_of_the_detectors(self) -> EvaluationConfig:
        if len(set(self.detectors)) < len(self.detectors):
            raise ValueError(f"{', '.join(self.detectors)} name a detector twice; give each once")
        for detector, needed in (("classifier", ("classifier",)), ("judge", ("judge_url", "judge_model"))):
            for name in needed:
                if detector in self.detectors and getattr(self, name) is None:
                    raise ValueError(f"detector {detector!r} needs {name}")
        return self

    @model_validator(mode="after")
    def _markers_belong_to_substring(self) -> EvaluationConfig:
        if ("substring" in self.detectors) != (self.markers is not None):
            raise ValueError("detector 'substring' needs markers = FILE (one substring a line), and only it takes one")
        return self


class CompareConfig(Section):
    """A comparison of direction sources. Flags take several values as ``a,b`` or given more than once."""

    methods: tuple[MethodName, ...] = Field(
        ("som", "single", "k-means", "pca", "random"), min_length=2, description="som, and what it is compared with."
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds of the direction sources and of the sampler."
    )
    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.25, 0.5), min_length=1, description="Refusal rates to compare at; the first one decides the verdict."
    )
    margin: float = Field(
        0.2, gt=0, lt=1, description="A difference of less than this share of the control's KL does not matter."
    )
    resamples: int = Field(2000, ge=200, description="Bootstrap resamples of the reporting prompts and the seeds.")

    @field_validator("methods", "seeds", "levels", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        return [part for item in value for part in (item.split(",") if isinstance(item, str) else [item])]

    @model_validator(mode="after")
    def _each_once_and_the_map_among_them(self) -> CompareConfig:
        for name in ("methods", "seeds", "levels"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} names a value twice; give each once")
        if "som" not in self.methods:
            raise ValueError("methods must hold som: every other one is a control of the map")
        return self


class BakeConfig(Section):
    """How ``sombrero run`` stores the edited weights of a quantized checkpoint."""

    packed: Literal["nearest", "carry", "beside"] | None = Field(
        None,
        description="Edited weights of a quantized checkpoint: rounded to nearest, with the edit carried over, or in "
        "bfloat16 beside the rest; default: beside where the loader permits it.",
    )
    accept_requantization_error: bool = Field(
        False, description="Bake where rounding to a quantized format leaves little of the edit."
    )


class RunConfig(Section):
    """Everything that decides the outcome of ``sombrero run``."""

    model: ModelConfig = ModelConfig()
    prompts: PromptConfig = PromptConfig()
    states: StatesConfig = StatesConfig()
    map: MapConfig = MapConfig()
    search: SearchConfig = SearchConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    bake: BakeConfig = BakeConfig()
    compare: CompareConfig = CompareConfig()
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
        lines = [f"  {'.'.join(str(p) for p in e['loc'])}: {e['msg']}{_found(e)}" for e in error.errors()]
        raise UsageError("the configuration is not valid:\n" + "\n".join(lines)) from error


def _found(error: Any) -> str:
    """The value that was found; not where somebody may have put a key in the place of its variable's name."""
    hidden = "judge_key_variable" in error["loc"] or "judge_url" in error["loc"]
    # an error of a whole section carries the section, and with it every value
    if isinstance(error["input"], dict):
        hidden = hidden or any(error["input"].get(name) for name in ("judge_key_variable", "judge_url"))
    return "" if hidden else f" (found {error['input']!r})"
