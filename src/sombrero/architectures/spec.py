"""The schema of an architecture file, and reading the files that are shipped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sombrero.errors import ArchitectureError
from sombrero.records import Layout, WriterKind

LAYER = r"\{layer\}"


class Entry(BaseModel):
    """Base of every part of the schema: frozen, and unknown keys fail."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Condition(Entry):
    """Which layers have a writer: those where a key of the text configuration, or a module, says so.

    ``key`` with ``values``: the key's value for the layer (a list has one for each layer) is one of them; without, it
    is neither false nor 0 nor missing. ``module``: the layer has a module of that path. ``present`` false: the reverse.
    """

    key: str | None = None
    values: tuple[str | int | bool, ...] = ()
    module: str | None = None
    present: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (self.module is None) or (self.values and self.key is None):
            raise ValueError("a condition names either a key (with values or without) or a module")
        return self


class PostNormSpec(Entry):
    """A norm between a writer and the residual stream, relative to the layer; it multiplies by ``weight + offset``."""

    module: str
    offset: float = 0.0


class StoredSpec(Entry):
    """Another way in which checkpoints of the class name, or lay out, a writer's tensors; as in :class:`WriterSpec`."""

    weight: str = Field(pattern=LAYER)
    bias: str | None = Field(None, pattern=LAYER)
    layout: Layout


class WriterSpec(Entry):
    """One kind of module that writes to the residual stream, in every layer that ``where`` lets pass.

    ``module`` is relative to the layer; ``name`` tells writers of one kind in a layer apart, the kind where left out.
    ``weight`` and ``bias`` are tensor names in the checkpoint, with ``{layer}``, with ``{base}`` for the text
    model, and with ``{expert}`` where each expert has a tensor of its own (then each is laid out as ``linear``).
    ``bias`` is left out where the class can have none; it may be named where it depends on the configuration.

    ``layout`` is that of ``parameter`` (and ``bias_parameter``) in the module. ``also_stored`` are other ways in which
    checkpoints hold these tensors; the first whose names are all there is taken. What the layer adds to the stream is
    the output times the sigmoid of ``gate``, after ``post_norms`` (the innermost first), times the number that the
    configuration holds at ``scale`` (``key`` or ``key.index``). ``router`` chooses among experts, and gives its logits
    first.
    """

    kind: WriterKind
    name: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$")
    module: str
    layout: Layout
    parameter: str = "weight"
    bias_parameter: str = "bias"
    weight: str = Field(pattern=LAYER)
    bias: str | None = Field(None, pattern=LAYER)
    also_stored: tuple[StoredSpec, ...] = ()
    where: tuple[Condition, ...] = ()
    post_norms: tuple[PostNormSpec, ...] = ()
    scale: str | None = None
    gate: str | None = None
    router: str | None = None

    @property
    def label(self) -> str:
        """``name``, or the kind."""
        return self.name or self.kind

    @model_validator(mode="after")
    def _experts_are_routed(self) -> Self:
        if self.layout.startswith("experts") != (self.router is not None):
            raise ValueError(f"the writer {self.label} needs a router when its layout is one of experts, and only then")
        return self


class ReasoningDelimiters(Entry):
    """How the chat template marks a reasoning block.

    ``final``: what opens the final answer, where reasoning and answer have channels of their own (harmony).
    """

    opening: str = Field(pattern=r"\S")
    closing: str = Field(pattern=r"\S")
    final: str | None = Field(None, pattern=r"\S")


class Base(Entry):
    """Where the text model lies in a class: ``module`` path, and prefixes that its tensors may have in a checkpoint.

    An empty prefix: checkpoints that hold the text model alone.
    """

    module: str
    stored: tuple[str, ...] = Field(min_length=1)


class Architecture(Entry):
    """One family. ``layers``, ``embeddings`` and ``head`` are module paths in the Hugging Face class.

    ``{base}`` in them stands for the text model: ``model``, where ``bases`` says nothing else for the class.
    ``layer_scale`` is a tensor of one number, relative to the layer, by which it multiplies all that it returns.
    """

    family: str
    classes: tuple[str, ...] = Field(min_length=1)
    bases: Mapping[str, Base] = Field(default_factory=dict)
    layers: str
    embeddings: str
    head: str = "lm_head"
    layer_scale: str | None = None
    writers: tuple[WriterSpec, ...] = Field(min_length=1)
    reasoning: ReasoningDelimiters | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        strangers = sorted(set(self.bases) - set(self.classes))
        if strangers:
            raise ValueError(f"bases are given for {strangers}, which are none of the classes")
        return self

    def base_of(self, class_name: str) -> Base:
        """Where the text model lies in the class."""
        return self.bases.get(class_name, DEFAULT_BASE)

    def placed(self, class_name: str) -> Architecture:
        """The same with module paths as they are in the class, without ``{base}``."""
        base = self.base_of(class_name).module
        paths = {field: getattr(self, field).replace("{base}", base) for field in ("layers", "embeddings", "head")}
        return self.model_copy(update=paths)


DEFAULT_BASE = Base(module="model", stored=("model",))


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
