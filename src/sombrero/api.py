"""The Python face: one object for one model and its run. Every method hands over to the verb of the same name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sombrero import tables, verbs
from sombrero.config import RunConfig, Section, load_config
from sombrero.errors import UsageError
from sombrero.progress import Progress
from sombrero.results import Result
from sombrero.run_folder import is_run, read_config

if TYPE_CHECKING:
    from sombrero.records import ModelHandle

MAP_PREFIX = "map_"
MAP_PICTURES = ("map.svg", "planes.svg")


class Sombrero:
    """A model, the settings of its run and the run's folder.

    Nothing is loaded before a method is called, and what is finished on disk is not done again: each method may be
    called again, in another process too. Raises UsageError for a setting that does not exist or is out of range.

    Parameters
    ----------
    model : str or Path
        Hub id, checkpoint folder, ``embedded``, or the folder of an earlier run, whose settings are then the base.
    out : Path or None
        Folder of the run. None: ``runs/NAME``, as on the command line.
    config : Path, RunConfig or None
        A TOML file or settings that ``settings`` are laid over.
    progress : Progress or None
        What is told of stages and trials; None: nothing is shown.
    judge_key : str or None
        API key for the detector ``judge``.
    **settings
        Every setting under the name of its flag, with underscores: ``trials=60``, ``map_n_rows=3``, ``seed=1``; or a
        whole section: ``search={"trials": 60}``.

    Attributes
    ----------
    config : RunConfig
        The settings, all of them.
    out : Path
        The run's folder.

    Examples
    --------
    >>> refusal = Sombrero("embedded", trials=12, report_limit=40)
    >>> refusal.map()       # a table, and in a notebook the map
    >>> refusal.run()       # goes on from there: search, bake, reload, measure, report
    >>> with refusal.edit() as edited:
    ...     edited.model.generate(...)
    """

    def __init__(
        self,
        model: str | Path = "embedded",
        *,
        out: str | Path | None = None,
        config: str | Path | RunConfig | None = None,
        progress: Progress | None = None,
        judge_key: str | None = None,
        **settings: Any,
    ) -> None:
        sections = sections_of(settings)
        if is_run(Path(model)):
            if out is not None or config is not None:
                raise UsageError(
                    f"{model} is a run folder with settings of its own, so neither out nor config can be given "
                    f"(found out={out!r}); leave them out"
                )
            config, out = read_config(Path(model)), model
        else:
            sections.setdefault("model", {})["source"] = str(model)
        self.config = _laid_over(config, sections)
        self.out = verbs.default_out(self.config.model.source) if out is None else Path(out)
        self._progress = progress
        self._judge_key = judge_key

    def __repr__(self) -> str:
        return f"Sombrero({self.config.model.source!r}, out={str(self.out)!r})"

    def run(self, *, fresh: bool = False) -> Result:
        """Map, search, bake, reload, measure, report. ``summary.json``, with the map below it. See ``verbs.run``."""
        found = verbs.run(self.config, self.out, fresh=fresh, **self._told)
        return Result(found, tables.print_summary, self._pictures)

    def map(self, *, fresh: bool = False) -> Result:
        """The map of the model's refusal and its controls. See ``verbs.map``."""
        return Result(verbs.map(self.config, self.out, fresh=fresh, **self._told), tables.print_map, self._pictures)

    def search(self, *, fresh: bool = False) -> Result:
        """Map and search; ``["front"]`` holds the best trials, best first. See ``verbs.search``."""
        return Result(verbs.search(self.config, self.out, fresh=fresh, **self._told), tables.print_mapping)

    def compare(self, *, fresh: bool = False) -> Result:
        """The map's directions beside each control's at equal refusal. See ``verbs.compare``.

        A comparison has a folder of its own: give one as ``out`` where the settings are also those of a run.
        """
        found = verbs.compare(self.config, self.out, fresh=fresh, **self._told)
        return Result(found, tables.print_comparison, (self.out / "figures" / "compare.svg",))

    def measure(
        self,
        *,
        against: str | Path | None = None,
        tasks: Sequence[str] = (),
        task_path: Path | None = None,
        task_limit: int | None = None,
        out: str | Path | None = None,
    ) -> Result:
        """The model on every prompt of its sources; with ``against`` also how far it is from that base.

        Of a source that has splits, on ``report``. See ``verbs.measure``.
        """
        found = verbs.measure(
            self.config,
            against=None if against is None else str(against),
            tasks=tasks,
            task_path=task_path,
            task_limit=task_limit,
            out=None if out is None else Path(out),
            **self._told,
        )
        return Result(found, tables.print_measurement)

    def bake(
        self,
        out: str | Path | None = None,
        *,
        trial: int | None = None,
        adapter: bool = False,
        gguf: str | Path | None = None,
        accept_requantization_error: bool = False,
        verify: Literal["tensors"] | None = None,
        push: str | None = None,
    ) -> Result:
        """The picked trial, or another one, as a checkpoint, an adapter or a GGUF file. See ``verbs.bake``."""
        found = verbs.bake(
            self.out,
            None if out is None else Path(out),
            trial=trial,
            adapter=adapter,
            gguf=None if gguf is None else Path(gguf),
            accept_requantization_error=accept_requantization_error,
            verify=verify,
            push=push,
            **self._told,
        )
        return Result(found, tables.print_mapping)

    def inspect(self) -> Result:
        """What is known of the model from its configuration alone. See ``verbs.inspect``."""
        return Result(verbs.inspect(self.config.model, progress=self._progress), tables.print_inspection)

    def report(self) -> Path:
        """Write ``report.html`` and ``figures/`` again, also of a run that is still going. Returns the page."""
        return verbs.report(self.out)

    @contextmanager
    def edit(self, trial: int | None = None) -> Iterator[ModelHandle]:
        """The model with an edit at work: ``.model`` and ``.tokenizer``. See ``verbs.edit``.

        Hooks make it behave as edited inside the ``with`` block; no weight is touched, and afterwards it is as before.
        """
        with verbs.edit(self.out, trial=trial, **self._told) as handle:
            yield handle

    @property
    def _told(self) -> dict[str, Any]:
        return {"progress": self._progress, "judge_key": self._judge_key}

    @property
    def _pictures(self) -> tuple[Path, ...]:
        return tuple(self.out / "figures" / name for name in MAP_PICTURES)


def measure(
    model: str | Path,
    *,
    against: str | Path | None = None,
    tasks: Sequence[str] = (),
    out: str | Path | None = None,
    **settings: Any,
) -> Result:
    """Measure any checkpoint, whoever made it: refusals, false refusals, coherence; with ``against``, divergence too.

    ``settings`` are those of ``Sombrero``. Raises UsageError for one that does not exist.

    Examples
    --------
    >>> measure("./edited", against="./base", report_limit=40)
    """
    return Sombrero(model, **settings).measure(against=against, tasks=tasks, out=out)


def sections_of(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by section, as ``load_config`` takes them. Raises UsageError for a name that is no setting."""
    places = setting_places()
    sections: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name in places:
            section, key = places[name]
            sections.setdefault(section, {})[key] = value
        elif name in RunConfig.model_fields and isinstance(value, dict | Section):
            given = value if isinstance(value, dict) else value.model_dump(exclude_unset=True)
            sections.setdefault(name, {}).update(given)
        else:
            near = get_close_matches(name, [*places, *RunConfig.model_fields], n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "'sombrero run --help' lists them"
            raise UsageError(f"there is no setting {name} (found {name}={value!r}); {hint}")
    return sections


def setting_places() -> dict[str, tuple[str, str]]:
    """Section and key of every setting, by the name of its flag with underscores (``--map-n-rows``: map_n_rows)."""
    places = {"seed": ("", "seed")}
    for section, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            prefix = MAP_PREFIX if section == "map" else ""
            places |= {prefix + key: (section, key) for key in field.annotation.model_fields}
    places.pop("source")  # the first argument
    return places


def _laid_over(base: str | Path | RunConfig | None, sections: dict[str, dict[str, Any]]) -> RunConfig:
    if not isinstance(base, RunConfig):
        return load_config(None if base is None else Path(base), sections)
    earlier = base.model_dump()
    merged = {"": {"seed": earlier.pop("seed")}, **earlier}
    for section, values in sections.items():
        merged[section] = {**merged[section], **values}
    return load_config(None, merged)
