"""Command-line flags made from the configuration: TOML and flags are two faces of the same pydantic model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from sombrero.config import RunConfig, load_config
from sombrero.errors import UsageError

ALL_SECTIONS = ("model", "prompts", "states", "map", "search", "evaluation")
SKIPPED = {("model", "source"), ("evaluation", "other_detectors")}
"""Given as the command's argument instead, or by a flag that may be given more than once."""


def with_flags(*sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for every setting of the sections, plus ``--config`` and ``--seed``.

    The command's last parameter must be ``config``; it receives a function that takes the model source (None keeps the
    file's) and the settings of an earlier run, if there is one, and returns the :class:`RunConfig`: the TOML file or
    the earlier settings, with the flags that were given laid over them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "config"]
        flags = {
            f"{section}__{name}": _flag(section, name, field)
            for section in sections
            for name, field in RunConfig.model_fields[section].annotation.model_fields.items()  # type: ignore[union-attr]
            if (section, name) not in SKIPPED
        }

        def wrapper(**values: Any) -> None:
            file, seed = values.pop("config_file"), values.pop("seed")
            given = {key: values.pop(key) for key in flags}

            def configure(source: str | None, earlier: RunConfig | None) -> RunConfig:
                overrides = _sections(earlier, file)
                overrides.setdefault("", {}).update({} if seed is None else {"seed": seed})
                for key, value in given.items():
                    section, name = key.split("__")
                    if value is not None and value != []:
                        overrides.setdefault(section, {})[name] = value
                if source is not None:
                    overrides.setdefault("model", {})["source"] = source
                return load_config(file, overrides)

            command(config=configure, **values)

        wrapper.__name__ = command.__name__
        wrapper.__doc__ = command.__doc__
        parameters = [*own, _config_file(), _seed(), *flags.values()]
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def _sections(earlier: RunConfig | None, file: Path | None) -> dict[str, dict[str, Any]]:
    """An earlier run's settings in the form of overrides; the seed stands in the section without a name."""
    if earlier is None:
        return {}
    if file is not None:
        raise UsageError(
            f"--config {file} cannot be given for an earlier run, which has its own settings; leave it out"
        )
    settings = earlier.model_dump()
    return {"": {"seed": settings.pop("seed")}, **settings}


def _flag(section: str, name: str, field: FieldInfo) -> inspect.Parameter:
    prefix = "map-" if section == "map" else ""
    flag = f"--{prefix}{name.replace('_', '-')}"
    kind = list[str] if _repeatable(field) else _plain(field.annotation)
    if kind is bool:
        flag = f"{flag}/--no-{prefix}{name.replace('_', '-')}"
    note = field.description or ""
    default = field.default
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else default
    if default is not None:
        note = f"{note} [default: {shown}]".strip()
    option = typer.Option(flag, help=note, rich_help_panel=f"Settings: {section}", show_default=False)
    return _keyword(f"{section}__{name}", Annotated[kind | None, option])  # type: ignore[operator, unused-ignore]


def _repeatable(field: FieldInfo) -> bool:
    """Whether one name is what is wanted mostly, and several may be given."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and extra.get("repeatable") is True


def _plain(annotation: Any) -> Any:
    """The type that the command line parses: without None; a tuple of choices becomes a repeatable option."""
    if get_origin(annotation) is tuple:
        return list[str]
    if get_origin(annotation) is Literal:
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)]
    return members[0] if members else annotation


def _config_file() -> inspect.Parameter:
    option = typer.Option("--config", "-c", help="TOML file with the same settings; flags win over it.", dir_okay=False)
    return _keyword("config_file", Annotated[Path | None, option])


def _seed() -> inspect.Parameter:
    return _keyword("seed", Annotated[int | None, typer.Option("--seed", help="Random seed. [default: 0]")])


def _keyword(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
