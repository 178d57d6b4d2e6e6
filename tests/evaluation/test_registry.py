"""Detectors are found by name: ours, and those of other packages; what is wrong with a plugin is said by its name."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path

import pytest

from sombrero.config import EvaluationConfig
from sombrero.errors import RunError, UsageError
from sombrero.evaluation import (
    Detector,
    DetectorSetup,
    OpeningDetector,
    build_detector,
    detector_names,
    find_detector,
    refusal_share,
)
from sombrero.evaluation.detectors.registry import GROUP, OWN
from sombrero.records import Prompt, Response, Verdict

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
PLUGIN = """
from sombrero.records import Verdict
class Loud:
    name = "loud"
    def judge_all(self, prompts, responses):
        return tuple(Verdict(r.prompt_id, "refusal" if "!" in r.text else "answer", None, 0) for r in responses)
    def settled(self, text):
        return False
def make(setup):
    return Loud()
NUMBER = 3
def hollow(setup):
    return object()
"""


def install(folder: Path, name: str, points: dict[str, str], source: str = PLUGIN) -> Distribution:
    """What a package installer leaves: a module, and metadata with entry points."""
    module, metadata = folder / f"{name}_module.py", folder / f"{name}-1.0.dist-info"
    module.write_text(source)
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{point} = {name}_module:{attribute}\n" for point, attribute in points.items())
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}")
    return next(d for d in distributions(path=[str(folder)]) if d.name == name)


def points_of(*found: Distribution) -> list[EntryPoint]:
    return [point for distribution in found for point in distribution.entry_points]


def settings(name: str) -> DetectorSetup:
    return DetectorSetup(EvaluationConfig(detector=name))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_our_own_detectors_are_registered_as_anybodys_are() -> None:
    assert tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][GROUP] == OWN
    assert set(OWN) <= set(detector_names())
    assert isinstance(build_detector(DetectorSetup()), OpeningDetector)
    for name in OWN:
        assert callable(find_detector(name).load())


def test_an_installed_plugin_is_found_by_name(folder: Path) -> None:
    install(folder, "loudpkg", {"loud": "make"})
    assert "loud" in detector_names()
    found = build_detector(settings("loud"))
    verdicts = found.judge_all([Prompt("a", "x")], [Response("a", "No!", (), "end")])
    assert verdicts == (Verdict("a", "refusal", None, 0),)


@pytest.mark.parametrize(
    ("attribute", "source", "message"),
    [
        ("make", "import a_module_that_is_not_there", "cannot be imported: No module named"),
        ("absent", PLUGIN, "cannot be imported.*absent"),
        ("make", "def (", "cannot be imported"),
        ("NUMBER", PLUGIN, "is a int"),
        ("hollow", PLUGIN, "has no name, judge_all, settled"),
    ],
)
def test_a_broken_plugin_is_named(folder: Path, attribute: str, source: str, message: str) -> None:
    sys.modules.pop("brokenpkg_module", None)
    points = points_of(install(folder, "brokenpkg", {"broken": attribute}, source))
    with pytest.raises(UsageError, match=f"distribution brokenpkg .*{message}"):
        build_detector(settings("broken"), points)
    assert build_detector(settings("opening"), points).name == "opening", "others go on without it"


def test_two_of_one_name_are_an_error_that_names_both(folder: Path) -> None:
    points = points_of(install(folder, "firstpkg", {"loud": "make"}), install(folder, "secondpkg", {"loud": "make"}))
    with pytest.raises(UsageError, match=r"more than once: by firstpkg .* and secondpkg "):
        find_detector("loud", points)


def test_nobody_takes_the_place_of_ours(folder: Path) -> None:
    points = points_of(install(folder, "usurper", {"opening": "make"}))
    with pytest.raises(UsageError, match=r"'opening' is registered more than once: by sombrero .* and usurper "):
        find_detector("opening", points)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no detector 'oracle'; take one of .*classifier.*judge.*opening"):
        find_detector("oracle")


@pytest.mark.parametrize("name", ["log-odds", "substring"])
def test_a_detector_without_what_it_needs_says_so(name: str) -> None:
    config = EvaluationConfig().model_copy(update={"detector": name})
    with pytest.raises(UsageError, match="given log-odds by prompt id" if name == "log-odds" else "needs a file"):
        build_detector(DetectorSetup(config))


def test_the_key_is_not_in_what_a_setup_shows() -> None:
    assert "hush" not in repr(DetectorSetup(api_key="hush"))


@pytest.mark.parametrize(
    ("prompts", "responses", "message"), [(["a"], ["a", "b"], "1 prompts for 2"), (["a", "b"], ["b", "a"], "beside")]
)
def test_prompts_and_responses_belong_together(prompts: Sequence[str], responses: Sequence[str], message: str) -> None:
    detector: Detector = OpeningDetector()
    with pytest.raises(UsageError, match=message):
        detector.judge_all([Prompt(i, "x") for i in prompts], [Response(i, "y", (), "end") for i in responses])


def test_unknown_is_on_neither_side_of_a_share() -> None:
    verdicts = [Verdict("p", label, "why", 1) for label in ("refusal", "answer", "unknown", "unknown", "empty")]
    found = refusal_share(verdicts)
    assert (found.count, found.n) == (1, 3)
    with pytest.raises(RunError, match=r"all 2 verdicts are unknown \(the first: why\)"):
        refusal_share(verdicts[2:4])
    with pytest.raises(UsageError, match="at least one"):
        refusal_share([])
