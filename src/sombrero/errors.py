"""Errors that Sombrero raises on purpose.

Every message says three things: what was wrong, the value that was found, and what to do about it.
"""

from __future__ import annotations


class SombreroError(Exception):
    """Base of every error that Sombrero raises on purpose; the command line exits with 1."""


class UsageError(SombreroError):
    """The caller asked for something that cannot be asked for; the command line exits with 2."""


class ModelError(SombreroError):
    """A model, tokenizer or chat template is missing, unreadable or unsuitable."""


class ArchitectureError(SombreroError):
    """An architecture is unknown, or its description does not fit the model."""


class PromptError(SombreroError):
    """A prompt set is missing, empty, duplicated or overlaps another one."""


class NumericalError(SombreroError):
    """A tensor is not finite, or a linear system cannot be solved reliably."""


class CoverageError(SombreroError):
    """The described writers do not account for what a layer adds to the residual stream."""


class RunError(SombreroError):
    """A run folder cannot be used: other configuration, damaged record, no space left."""


class CheckpointError(SombreroError):
    """A checkpoint cannot be read, written or verified."""
