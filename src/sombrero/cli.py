"""The command line: parse, make the configuration, call the verb, print. Nothing is decided here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sombrero import __version__, verbs
from sombrero.config import RunConfig
from sombrero.console import Terminal
from sombrero.errors import SombreroError, UsageError
from sombrero.flags import ALL_SECTIONS, with_flags
from sombrero.run_folder import is_run, read_config
from sombrero.safe_text import json_text, printable
from sombrero.tables import (
    print_comparison,
    print_diff,
    print_inspection,
    print_map,
    print_mapping,
    print_measurement,
    print_notes,
    print_summary,
)

CACHE_VARIABLE = "SOMBRERO_CACHE"
OK, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Map how a language model refuses, edit it along the map, bake the edit, and measure what it did.\n\n"
    "Start with: sombrero run embedded",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
errors = Console(stderr=True)
output = Console()

Configure = Callable[[str | None, RunConfig | None], RunConfig]
Target = Annotated[
    str, typer.Argument(help="Hub id, checkpoint folder, 'embedded', 'embedded-parts', or an earlier run's folder.")
]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a run, as written by 'sombrero run'.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/NAME.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over: remove what an earlier run left in the folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


class Verify(StrEnum):
    """How ``bake --verify`` proves a checkpoint."""

    TENSORS = "tensors"


class Packed(StrEnum):
    """How ``bake --packed`` stores the edited weights of a quantized checkpoint."""

    NEAREST = "nearest"
    CARRY = "carry"
    BESIDE = "beside"


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if show:
        typer.echo(f"sombrero {__version__}")
        raise typer.Exit


@app.command()
@with_flags(*ALL_SECTIONS, "bake")
def run(target: Target, config: Configure, out: Out = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Do everything: map, search, bake, reload, re-measure, report. Killed and called again, it goes on.

    `sombrero run embedded` works offline; `sombrero run Qwen/Qwen3-4B-Instruct-2507` maps a model of the hub.
    """
    settings, folder = _resolve(target, config, out)
    terminal = Terminal(errors, settings.search)
    summary = verbs.run(settings, folder, fresh=fresh, progress=terminal, judge_key=_judge_key(settings))
    _show(summary, as_json, print_summary)


@app.command("map")
@with_flags("model", "prompts", "states", "map", "evaluation")
def map_(target: Target, config: Configure, out: Out = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Map the model's refusal: a self-organizing map of its harmful states for every layer, and the directions."""
    settings, folder = _resolve(target, config, out)
    _show(
        verbs.map(settings, folder, fresh=fresh, progress=Terminal(errors), judge_key=_judge_key(settings)),
        as_json,
        print_map,
    )


@app.command()
@with_flags(*ALL_SECTIONS)
def search(target: Target, config: Configure, out: Out = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Map, then search for edits, and print the front of refusals and divergence."""
    settings, folder = _resolve(target, config, out)
    _show(
        verbs.search(
            settings,
            folder,
            fresh=fresh,
            progress=Terminal(errors, settings.search),
            judge_key=_judge_key(settings),
        ),
        as_json,
        print_mapping,
    )


@app.command()
def bake(
    run_folder: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the checkpoint goes.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", help="Bake this trial instead of the picked one.")] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="A LoRA adapter (PEFT, vLLM), not merged weights.")
    ] = False,
    gguf: Annotated[Path | None, typer.Option("--gguf", help="Fold it into this GGUF file of the same model.")] = None,
    packed: Annotated[
        Packed | None,
        typer.Option("--packed", help="How edited weights of a quantized checkpoint are stored; default: the best."),
    ] = None,
    accept_requantization_error: Annotated[
        bool, typer.Option("--accept-requantization-error", help="Bake where rounding leaves little of the edit.")
    ] = False,
    verify: Annotated[
        Verify | None, typer.Option("--verify", help="tensors: compute a sample of edited rows again.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="Upload it to the hub; a new repository is private."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Bake a trial of a finished search into a checkpoint of its own, or an adapter. Called again, it goes on."""
    found = verbs.bake(
        run_folder,
        out,
        trial=trial,
        adapter=adapter,
        gguf=gguf,
        packed=None if packed is None else packed.value,
        accept_requantization_error=accept_requantization_error,
        verify="tensors" if verify is Verify.TENSORS else None,
        push=push,
        progress=Terminal(errors),
        judge_key=_judge_key(read_config(run_folder)),
    )
    _show(found, as_json, print_mapping)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A baked checkpoint or an adapter, with its sombrero.json.")],
    as_json: Json = False,
) -> None:
    """Compute the hash of every file of a baked folder again, and compare with its sombrero.json."""
    _show(verbs.verify(folder), as_json, print_mapping)


@app.command()
def diff(
    base: Annotated[Path, typer.Argument(help="Checkpoint folder of the base.")],
    edited: Annotated[Path, typer.Argument(help="Checkpoint folder of the edited model, by whichever tool.")],
    as_json: Json = False,
) -> None:
    """Say which tensors of two checkpoints differ, by which rank and energy, and what kind of edit it looks like."""
    _show(verbs.diff(base, edited, progress=Terminal(errors)), as_json, print_diff)


@app.command()
@with_flags("model", "prompts", "states", "evaluation")
def measure(
    model: Annotated[str, typer.Argument(help="Hub id, checkpoint folder, 'embedded', or 'embedded-parts'.")],
    config: Configure,
    against: Annotated[
        str | None, typer.Option("--against", help="Base model: measured too, with divergence and paired tests.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Tasks of lm-evaluation-harness, a,b (extra lm-eval).")
    ] = None,
    task_path: Annotated[
        Path | None, typer.Option("--task-path", help="Folder with task files of your own; their code runs.")
    ] = None,
    task_limit: Annotated[
        int | None, typer.Option("--task-limit", min=1, help="At most this many samples of each task.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for measurement.json and measurement.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure any model: refusals, false refusals, coherence; with --against also a base, and how far it is from it."""
    settings = _with_cache(config(model, None))
    found = verbs.measure(
        settings,
        against=against,
        tasks=[name.strip() for name in tasks.split(",")] if tasks is not None else (),
        task_path=task_path,
        task_limit=task_limit,
        out=out,
        progress=Terminal(errors),
        judge_key=_judge_key(settings),
    )
    _show(found, as_json, print_measurement)
    if out is not None and not as_json:
        typer.echo(printable(f"report: {out / 'measurement.html'}"))


@app.command()
@with_flags(*ALL_SECTIONS, "compare")
def compare(target: Target, config: Configure, out: Out = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Ask whether the map helps: the same budget along its directions and along each control's, over several seeds.

    `sombrero compare embedded --seeds 0,1,2 --methods som,single,random`. Killed and called again, it goes on.
    """
    settings, folder = _resolve(target, config, out)
    found = verbs.compare(settings, folder, fresh=fresh, progress=Terminal(errors), judge_key=_judge_key(settings))
    _show(found, as_json, print_comparison)


@app.command()
def report(run_folder: RunArgument) -> None:
    """Write report.html of a run again; of a run that is still going, what there is so far."""
    typer.echo(verbs.report(run_folder))


@app.command()
def watch(
    run_folder: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8741,
) -> None:
    """Serve a live page of a run folder on this machine: stages, trials, the front. Read only (extra watch)."""
    from sombrero.watch import watch as serve

    shown = printable(str(run_folder))
    serve(run_folder, port=port, on_ready=lambda address: typer.echo(f"watching {shown}: {address}"))


@app.command()
@with_flags("model", "prompts")
def chat(
    target: Target,
    config: Configure,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 200,
    web: Annotated[bool, typer.Option("--web", help="In a browser, from 127.0.0.1 (extra gradio).")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --web; 0 takes a free one.")] = 0,
) -> None:
    """Talk to the base model and, for a run, to the edited one side by side, and change the edit as you go (/help).

    Nothing is written to disk, but where /save is told to.
    """
    from sombrero.chat import open_chat, talk

    terminal = Terminal(errors)
    models = open_chat(target, _with_cache(config(None, None)), terminal)
    if web:
        from sombrero.chat.web import serve

        serve(models, max_new_tokens=max_new_tokens, port=port, on_ready=lambda address: typer.echo(f"chat: {address}"))
    else:
        talk(output, models, max_new_tokens=max_new_tokens, progress=terminal)


@app.command()
@with_flags("model")
def inspect(
    model: Annotated[
        str, typer.Argument(help="Hub id, checkpoint folder, GGUF file, 'embedded', or 'embedded-parts'.")
    ],
    config: Configure,
    propose: Annotated[
        bool, typer.Option("--propose", help="Trace the writers of a class that is not described; prints an entry.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is known of a model from its configuration alone: family, writers, parameters, memory.

    `sombrero inspect MODEL --propose > entry.json` drafts an architecture entry; read it, then give it with
    `--architecture-file entry.json`.
    """
    settings = _with_cache(config(model, None)).model
    found = verbs.inspect(settings, propose=propose, progress=Terminal(errors))
    if not propose:
        _show(found, as_json, print_inspection)
        return
    typer.echo(json_text(found if as_json else found["entry"]))
    print_notes(errors, found)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    if not errors.is_terminal:  # a bar is no line; read when the hub's library is imported, by transformers too
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(standalone_mode=True)
    except UsageError as error:
        _fail(error, USAGE)
    except SombreroError as error:
        _fail(error, FAILURE)
    except SystemExit as stop:  # typer turns an interrupt into one, without a word
        if stop.code == INTERRUPTED:
            errors.print("\nInterrupted. Finished stages and trials are kept: the same command goes on from here.")
        raise
    except BrokenPipeError:
        # the reader of our output went away; Python must not fail again when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)


def _resolve(target: str, config: Configure, out: Path | None) -> tuple[RunConfig, Path | None]:
    """The settings and the folder; an earlier run named as the target brings both, and flags are laid over them."""
    path = Path(target)
    if not is_run(path):
        return _with_cache(config(target, None)), out
    if out is not None and out != path:
        raise UsageError(f"{target} is a run folder, so --out {out} cannot be given; leave it out")
    return config(None, read_config(path)), path


def _with_cache(config: RunConfig) -> RunConfig:
    """The cache folder of the embedded model may come from the environment; the core reads none."""
    folder = os.environ.get(CACHE_VARIABLE)
    if config.model.cache is not None or not folder:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"cache": Path(folder)})})


def _judge_key(config: RunConfig) -> str | None:
    """The judge's API key, from the environment variable that the settings name; the core reads none."""
    name = config.evaluation.judge_key_variable
    if "judge" not in config.evaluation.detectors or name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise UsageError(
            f"judge_key_variable is {name}, and that environment variable is not set; put the judge's API key in it, "
            "or leave judge_key_variable out"
        )
    return key


def _show(result: dict[str, Any], as_json: bool, draw: Callable[[Console, dict[str, Any]], None]) -> None:
    if as_json:
        typer.echo(json_text(result))
    else:
        draw(output, result)


def _fail(error: SombreroError, code: int) -> None:
    errors.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=not errors.is_terminal)
    sys.exit(code)


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
