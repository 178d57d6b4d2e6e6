"""Sombrero: map how a language model refuses, edit it along the map, bake the edit, measure what it did.

>>> from sombrero import Sombrero, SelfOrganizingMap, measure

Importing this package loads nothing; each of these names is fetched when it is first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sombrero.api import Sombrero, measure
    from sombrero.config import RunConfig, load_config
    from sombrero.errors import SombreroError
    from sombrero.results import Result
    from sombrero.som import SelfOrganizingMap

__version__ = "0.1.0"

__all__ = [
    "Result",
    "RunConfig",
    "SelfOrganizingMap",
    "Sombrero",
    "SombreroError",
    "__version__",
    "load_config",
    "measure",
]

_PLACES = {
    "Result": "sombrero.results",
    "RunConfig": "sombrero.config",
    "SelfOrganizingMap": "sombrero.som",
    "Sombrero": "sombrero.api",
    "SombreroError": "sombrero.errors",
    "load_config": "sombrero.config",
    "measure": "sombrero.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'sombrero' has no attribute {name!r}; it offers {', '.join(sorted(_PLACES))}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
