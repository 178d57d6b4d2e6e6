"""The schema of an architecture file, and reading the files that are shipped."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sombrero.errors import ArchitectureError
from sombrero.records import Layout, WriterKind


class Entry(BaseModel):
    """Base of every part of the schema: frozen, and unknown keys fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WriterSpec(Entry):
    """One kind of module that writes to the residual stream, the same in every layer.

    ``module`` is relative to the layer. ``weight`` and ``bias`` are tensor names in the checkpoint, with ``{layer}``.
    ``bias`` is left out where the class can have none; it may be named where it depends on the configuration.
    """

    kind: WriterKind
    module: str
    layout: Layout
    weight: str = Field(pattern=r"\{layer\}")
    bias: str | None = Field(None, pattern=r"\{layer\}")


class ReasoningDelimiters(Entry):
    """How the chat template marks a reasoning block.

    ``final``: what opens the final answer, where reasoning and answer have channels of their own (harmony).
    """

    opening: str = Field(pattern=r"\S")
    closing: str = Field(pattern=r"\S")
    final: str | None = Field(None, pattern=r"\S")


class Architecture(Entry):
    """One family. ``layers`` and ``embeddings`` are module paths in the Hugging Face class."""

    family: str
    classes: tuple[str, ...] = Field(min_length=1)
    layers: str
    embeddings: str
    writers: tuple[WriterSpec, ...] = Field(min_length=1)
    reasoning: ReasoningDelimiters | None = None


@cache
def load_architectures() -> tuple[Architecture, ...]:
    """Read every architecture file that is shipped.

    Raises ArchitectureError when a file does not fit the schema or two files serve the same class.
    """
    folder = files("sombrero.architectures").joinpath("data")
    return read_architectures(sorted(folder.iterdir(), key=lambda item: item.name))


def read_architectures(items: Iterable[Traversable]) -> tuple[Architecture, ...]:
    """Read the given JSON files; see :func:`load_architectures`."""
    found: list[Architecture] = []
    served: dict[str, str] = {}
    for item in items:
        if not item.name.endswith(".json"):
            continue
        try:
            entry = Architecture.model_validate_json(item.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ArchitectureError(f"the architecture file {item.name} does not fit the schema:\n{error}") from error
        for name in entry.classes:
            if name in served:
                raise ArchitectureError(
                    f"the class {name} is served by {served[name]} and by {item.name}; remove it from one of them"
                )
            served[name] = item.name
        found.append(entry)
    return tuple(found)
