"""What may be typed in a chat instead of a message. Terminal and browser share these commands."""

from __future__ import annotations

from collections.abc import Callable

from sombrero.chat.models import ChatModels
from sombrero.errors import UsageError

HELP = """\
/trial N        edit as trial N of the run did
/strength X     scale the edit: 0 is none, 1 the trial's own
/units 0+2      edit along these units of the map, by salience
/system TEXT    another system prompt; without TEXT, none
/base on|off    whether the base model answers too
/reset          forget the conversation
/save DIR       bake the edit as it is set now into a new folder
/help           this list
/quit           end (or Ctrl-D)"""


def obey(models: ChatModels, line: str) -> str:
    """Do what a command says, and tell what holds now. Raises UsageError when it cannot be understood or done.

    ``/reset``, ``/save`` and ``/quit`` are up to whoever holds the conversation.
    """
    name, _, argument = line.partition(" ")
    do = COMMANDS.get(name)
    if do is None:
        raise UsageError(f"there is no command {name}; /help lists them")
    return do(models, argument.strip())


def describe(models: ChatModels) -> str:
    """Which edit is set, in a line."""
    return "base model only" if models.setting is None else f"edit: {models.setting}"


def _trial(models: ChatModels, argument: str) -> str:
    if not argument.isdecimal():
        raise UsageError(f"/trial takes the number of a trial, not {argument!r}; for example /trial 3")
    models.take_trial(int(argument))
    return describe(models)


def _strength(models: ChatModels, argument: str) -> str:
    try:
        factor = float(argument)
    except ValueError:
        raise UsageError(f"/strength takes a number, not {argument!r}; for example /strength 1.5") from None
    models.take_strength(factor)
    return describe(models)


def _units(models: ChatModels, argument: str) -> str:
    parts = [part.strip() for part in argument.split("+")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"/units takes numbers joined by +, not {argument!r}; for example /units 0+2")
    models.take_units(tuple(int(part) for part in parts))
    return describe(models)


def _system(models: ChatModels, argument: str) -> str:
    models.system_prompt = argument or None
    return f"system prompt: {argument}" if argument else "no system prompt"


def _base(models: ChatModels, argument: str) -> str:
    if argument not in ("on", "off"):
        raise UsageError(f"/base takes on or off, not {argument!r}")
    if models.setting is None:
        raise UsageError("the base model is the only one here; chat with the folder of a run to see both")
    models.shows_base = argument == "on"
    return f"base model: {argument}"


def _help(_models: ChatModels, _argument: str) -> str:
    return HELP


COMMANDS: dict[str, Callable[[ChatModels, str], str]] = {
    "/trial": _trial,
    "/strength": _strength,
    "/units": _units,
    "/system": _system,
    "/base": _base,
    "/help": _help,
}
