"""Find a detector by its name: our own, and those that other packages add as entry points ``sombrero.detectors``."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from sombrero.config import EvaluationConfig
from sombrero.errors import UsageError
from sombrero.evaluation.detectors.protocol import Detector, DetectorFactory, DetectorSetup

GROUP = "sombrero.detectors"
_PACKAGE = "sombrero.evaluation.detectors"
OWN = {
    "opening": f"{_PACKAGE}.text:opening",
    "substring": f"{_PACKAGE}.text:substring",
    "log-odds": f"{_PACKAGE}.log_odds:log_odds",
    "classifier": f"{_PACKAGE}.classifier:classifier",
    "judge": f"{_PACKAGE}.judge:judge",
}
"""The entry points that pyproject.toml registers, also where Sombrero runs from its sources without being installed."""


def detector_names(found: Iterable[EntryPoint] | None = None) -> tuple[str, ...]:
    """Every name that a detector can be asked for by, sorted. Imports no detector."""
    return tuple(sorted({*OWN, *(point.name for point in _registered(found))}))


def find_detector(name: str, found: Iterable[EntryPoint] | None = None) -> EntryPoint:
    """The entry point of that name, not imported yet. ``found``: the registered ones; None asks what is installed.

    Raises UsageError for a name that nobody registers, or that several distributions do.
    """
    registered = _registered(found)
    points = {(_distribution(p), p.value): p for p in registered if p.name == name}
    if name in OWN:
        points.setdefault(("sombrero", OWN[name]), EntryPoint(name, OWN[name], GROUP))
    if not points:
        raise UsageError(f"there is no detector {name!r}; take one of {', '.join(detector_names(registered))}")
    if len(points) > 1:
        claims = " and ".join(f"{distribution} ({value})" for distribution, value in sorted(points))
        raise UsageError(f"the detector {name!r} is registered more than once: by {claims}; remove all but one")
    return next(iter(points.values()))


def build_detector(setup: DetectorSetup, found: Iterable[EntryPoint] | None = None) -> Detector:
    """The detector that ``setup.settings.detector`` names, made from the setup.

    Raises UsageError as :func:`find_detector` does, for a plugin that cannot be imported or is no factory (naming the
    distribution that brings it), and what its factory raises.
    """
    name = setup.settings.detector
    point = find_detector(name, found)
    distribution = _distribution(point)
    try:
        factory: DetectorFactory = point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"the detector {name!r} of the distribution {distribution} ({point.value}) cannot be imported: {error}; "
            "repair or remove that distribution, or choose another detector"
        ) from error
    if not callable(factory):
        raise UsageError(
            f"the detector {name!r} of the distribution {distribution} ({point.value}) is a {type(factory).__name__}; "
            "an entry point must name a function that makes a detector from a DetectorSetup"
        )
    detector = factory(setup)
    missing = [part for part in ("name", "judge_all", "settled") if not hasattr(detector, part)]
    if missing:
        raise UsageError(
            f"the detector {name!r} of the distribution {distribution} ({point.value}) has no {', '.join(missing)}; "
            "see sombrero.evaluation.Detector"
        )
    return detector


def make_detector(name: str, markers: Path | None = None) -> Detector:
    """The detector of that name, without settings; ``markers`` is the file that ``substring`` needs, and only it takes.

    Raises UsageError for an unknown name, or a file that is missing or not wanted.
    """
    if (name == "substring") != (markers is not None):
        raise UsageError(
            f"detector {name!r} with markers {markers}: 'substring' needs a file of markers, no other takes it"
        )
    find_detector(name)
    # the settings are not validated as a whole: what is missing is said by the detector that misses it
    settings = EvaluationConfig().model_copy(update={"detector": name, "markers": markers})
    return build_detector(DetectorSetup(settings))


def _registered(found: Iterable[EntryPoint] | None) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=GROUP) if found is None else found)


def _distribution(point: EntryPoint) -> str:
    return "sombrero" if point.dist is None else point.dist.name
