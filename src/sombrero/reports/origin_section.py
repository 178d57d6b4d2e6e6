"""Section: where the figures come from, and how to get them again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sombrero.reports.run_files import RunFiles
from sombrero.reports.wording import duration

CREDENTIALS = re.compile(r"(?<=://)[^\s\"]*(?=@)")
"""User and password in a URL: a report is made to be passed on."""


def origin_section(run: RunFiles) -> dict[str, Any]:
    """Configuration, versions, timings, hashes and the command."""
    manifest, summary = run.manifest, run.summary or {}
    seconds = {name: entry.get("seconds", 0.0) for name, entry in manifest["stages"].items()}
    peak = summary.get("peak_rss_bytes")
    return {
        "config": "\n".join(toml_lines(manifest["config"])),
        "command": reproduce_command(manifest["config"]),
        "versions": manifest.get("versions", {}),
        "seed": manifest.get("seed"),
        "hashes": {"configuration": manifest.get("config_hash"), **manifest.get("identity", {})},
        "seconds": [(name, duration(value)) for name, value in seconds.items()],
        "total": duration(sum(seconds.values())),
        "peak": None if peak is None else f"{peak / 2**30:.2f} GiB",
    }


def reproduce_command(config: Mapping[str, Any]) -> str:
    """The command that makes this run again from the configuration, saved as ``run.toml``."""
    source = CREDENTIALS.sub("***", str(config.get("model", {}).get("source", "embedded")))
    return f"sombrero run {shlex.quote(source)} --config run.toml --out NEW_FOLDER"


def toml_lines(config: Mapping[str, Any]) -> Iterator[str]:
    """The configuration as TOML. TOML has no null: what is not set stands in a comment."""
    yield from _settings((key, value) for key, value in config.items() if not isinstance(value, Mapping))
    for section, values in config.items():
        if isinstance(values, Mapping):
            yield ""
            yield f"[{section}]"
            yield from _settings(values.items())


def _settings(items: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for key, value in items:
        yield f"# {key} is not set" if value is None else f"{key} = {_toml_value(value)}"


def _toml_value(value: Any) -> str:
    # of strings, numbers, booleans and lists of them, JSON's form is TOML's, but for DEL, which TOML wants escaped
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return CREDENTIALS.sub("***", text)
