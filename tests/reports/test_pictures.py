"""The figures folder: what is drawn, what is said of what is not; nothing from a file becomes more than text."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from sombrero.errors import RunError
from sombrero.records import DirectionSet, Manifold
from sombrero.reports import write_figures, write_report
from sombrero.reports.figures import FIGURES
from sombrero.reports.run_files import CONTROLS, read_run
from sombrero.tensor_records import load_record, save_record
from tests.reports.map_records import BEST_STATE, CATEGORIES
from tests.reports.run_folders import HOSTILE, refusal_map, write_map_records, write_run
from tests.reports.test_page import Page

NAMES = ["map", "planes", "layers", "manifold", "curves", "grid-size", "cosines", "controls"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(tmp_path_factory.mktemp("runs") / "drawn")
    write_figures(path)
    return path


def texts(path: Path) -> list[str]:
    """Every text of an SVG file."""
    root = ElementTree.fromstring(path.read_bytes())
    return ["".join(found.itertext()) for found in root.iter(f"{SVG}text")]


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_every_figure_is_there_three_times(run: Path) -> None:
    expected = {f"{name}.{suffix}" for name in NAMES for suffix in ("png", "svg", "csv")} | {"README.md"}
    assert {path.name for path in (run / "figures").iterdir()} == expected
    assert [figure.name for figure in FIGURES] == NAMES
    said = (run / "figures/README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}.png)" in said for name in NAMES) and "Left out" not in said


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_sound(run: Path, name: str) -> None:
    from PIL import Image

    path = run / f"figures/{name}.png"
    Image.open(path).verify()
    image = Image.open(path).convert("RGB")
    assert image.width >= 1300 and len(image.getcolors(maxcolors=image.width * image.height)) > 50
    svg = (run / f"figures/{name}.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
    assert "<dc:date>" not in svg and "<script" not in svg
    rows = table(run / f"figures/{name}.csv")
    assert rows and all(None not in row and None not in row.values() for row in rows)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("map", ["The map of refusal", "U-matrix: distances between neighbours", "unit 15"]),
        ("planes", ["AUROC of the unit's direction", "Main category of its prompts", CATEGORIES[0]]),
        ("layers", ["The map, layer by layer", *(str(i) for i in range(13))]),
        ("manifold", ["harmful prompt", "harmless prompt", "unit, by its hits", "state 12"]),
        ("curves", ["single direction, 95% interval", "quantization error", "Topographic error", "state index"]),
        ("grid-size", ["Prediction strength", "harmless prompts (control)", "number of units"]),
        ("cosines", ["single", "k-means 1", "shuffled 3"]),
        ("controls", ["shuffled labels (null)", "random samples", "mean and components", "AUROC (0.5: chance)"]),
    ],
)
def test_labels_are_text_in_the_svg(run: Path, name: str, said: list[str]) -> None:
    assert set(said) <= set(texts(run / f"figures/{name}.svg"))


def test_same_files_same_bytes(run: Path) -> None:
    first = {path.name: path.read_bytes() for path in (run / "figures").iterdir()}
    assert {path.name: path.read_bytes() for path in write_figures(run)} == first
    assert not list(run.rglob("*.partial"))


def test_the_tables_hold_the_records(run: Path) -> None:
    files = read_run(run)
    assert files.refusal_map is not None and files.som is not None and files.quality is not None
    units = table(run / "figures/map.csv")
    assert [int(row["hits"]) for row in units] == files.refusal_map.hit_counts[BEST_STATE].tolist()
    first = units[int(files.som.units[BEST_STATE, 0])]
    assert first["salience_rank"] == "1"
    assert float(first["auroc_low"]) == pytest.approx(float(files.som.auroc_low[BEST_STATE, 0]), rel=1e-3)
    sizes = [row for row in table(run / "figures/grid-size.csv") if row["state"] == str(BEST_STATE)]
    assert [int(row["units"]) for row in sizes] == files.quality.candidates.tolist()
    assert {row["chosen"] for row in sizes} == {"3"} and {row["chosen_harmless"] for row in sizes} == {"2"}
    cosines = table(run / "figures/cosines.csv")
    assert [float(row[row["direction"]]) for row in cosines] == pytest.approx([1.0] * len(cosines))
    methods = {row["method"] for row in table(run / "figures/controls.csv")}
    assert methods == {"som", "single", "k-means", "pca", "random", "shuffled"}


@pytest.mark.parametrize(
    ("removed", "lost", "section"),
    [
        (["map/manifold.safetensors"], ["manifold"], "manifold"),
        (["map/quality.safetensors"], ["grid-size"], "sizes"),
        ([f"map/directions-{name}.safetensors" for name in CONTROLS], ["controls"], "controls"),
        (["map/units.json"], [], "map"),
        (["map/directions-shuffled.safetensors"], [], "controls"),
    ],
)  # fmt: skip
def test_what_a_run_does_not_have_is_left_out_and_named(
    tmp_path: Path, run: Path, removed: list[str], lost: list[str], section: str
) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    for name in removed:
        (run / name).unlink()
    written = {path.name for path in write_figures(run)}
    kept = [name for name in NAMES if name not in lost]
    assert written == {path.name for path in (run / "figures").iterdir()}  # what an earlier call drew is gone, too
    assert written == {f"{name}.{suffix}" for name in kept for suffix in ("png", "svg", "csv")} | {"README.md"}
    said = (run / "figures/README.md").read_text(encoding="utf-8")
    assert [f"`{name}`" in said for name in lost] == [True] * len(lost) and ("no " in said) == bool(lost)
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert section in page.ids
    missing = {"manifold": "no map/manifold.safetensors", "sizes": "no map/quality.safetensors"}
    assert missing.get(section, "") in page.words
    if removed == ["map/units.json"]:
        assert "main category (this run has no map/units.json)" in page.words
        assert "this run has no map/units.json: who lives in a unit is not known" in texts(run / "figures/planes.svg")
    if lost == ["controls"]:
        assert "Controls are not drawn" in page.words


def test_a_run_without_a_map_has_no_figures(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="baseline")
    assert [path.name for path in write_figures(run)] == ["README.md"]
    said = (run / "figures/README.md").read_text(encoding="utf-8")
    assert said.count("Left out: this run has no map/map.safetensors") == len(NAMES)
    with pytest.raises(RunError, match="there is no run"):
        write_figures(tmp_path)


def test_direction_sets_of_the_first_version_can_be_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="directions")
    for path in (run / "map").glob("directions-*"):
        found = load_record(DirectionSet, path)
        names = ("vectors", "units", "hit_counts", "auroc", "harmless_mean")
        meta = {"sombrero": json.dumps({"method": found.method})}
        save_file({name: getattr(found, name).contiguous() for name in names}, path, metadata=meta)
    assert len(write_figures(run)) == 3 * len(NAMES) + 1
    curves = texts(run / "figures/curves.svg")
    assert "single direction" in curves and "single direction, 95% interval" not in curves
    assert "Intervals: not measured in this run." in Page(write_report(run).read_text(encoding="utf-8")).words
    assert {row["auroc_low"] for row in table(run / "figures/controls.csv")} == {""}


@pytest.mark.parametrize(
    "name", ["quality.safetensors", "manifold.safetensors", "units.json", "directions-pca.safetensors"]
)
def test_a_damaged_record_is_named(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run", until="directions")
    (run / "map" / name).write_bytes(b"{ damaged")
    with pytest.raises(RunError, match=name):
        write_figures(run)


def test_records_of_another_map_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="directions")
    other = tmp_path / "other"
    write_map_records(other, refusal_map(2, 3))
    for name in ("manifold.safetensors", "directions-som.safetensors"):
        kept = (run / "map" / name).read_bytes()
        (run / "map" / name).write_bytes((other / "map" / name).read_bytes())
        with pytest.raises(RunError, match=f"{name} cannot be read"):
            write_figures(run)
        (run / "map" / name).write_bytes(kept)
    units = json.loads((run / "map/units.json").read_bytes())
    (run / "map/units.json").write_text(json.dumps([units[0] | {"unit": 99}]), encoding="utf-8")
    with pytest.raises(RunError, match=r"units\.json cannot be read: it names a unit outside"):
        write_figures(run)


def test_hostile_categories_stay_text(tmp_path: Path, run: Path) -> None:
    names = (*HOSTILE, "$\\frac{1}{0}$", "=HYPERLINK(1)")
    hostile = write_run(tmp_path / "run", until="directions", texts=names)
    write_figures(hostile)
    usual = {element.tag for element in ElementTree.fromstring((run / "figures/planes.svg").read_bytes()).iter()}
    root = ElementTree.fromstring((hostile / "figures/planes.svg").read_bytes())
    assert {element.tag for element in root.iter()} <= usual
    assert not any(name.startswith("on") for element in root.iter() for name in element.attrib)
    assert any(text.startswith(("<script>", "</script>", '"><svg')) for text in texts(hostile / "figures/planes.svg"))
    cells = [row["categories"] for row in table(hostile / "figures/map.csv")]
    assert not any(cell.startswith("=") for cell in cells) and any("alert(1)" in cell for cell in cells)
    html = write_report(hostile).read_text(encoding="utf-8")
    page = Page(html)
    told = page.data["map"]["people"]
    assert {name for unit in told["units"] for name, _ in unit} & set(HOSTILE)
    assert "alert(1)" not in page.words and "alert(1)" not in "".join(str(a) for _, a in page.elements)
    code = html.split('id="report-data">')[1].split("</script>")[0]
    assert "<" not in code and not set(code) & set("\u2028\u202e\x00")


def test_a_category_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="directions", texts=("=1+1",))
    write_figures(run)
    told = {row["categories"] for row in table(run / "figures/map.csv")}
    assert told <= {"", *(f"'=1+1: {count}" for count in range(200))} and len(told) > 1


@pytest.mark.parametrize(("shape", "lattice"), [((1, 1), "hexagonal"), ((1, 4), "hexagonal"), ((3, 6), "rectangular")])
def test_other_lattices(tmp_path: Path, shape: tuple[int, int], lattice: str) -> None:
    run = write_run(tmp_path / "run", until="directions")
    found = refusal_map(*shape, lattice=lattice)
    save_record(found, run / "map/map.safetensors")
    write_map_records(run, found)
    assert len(write_figures(run)) == 3 * len(NAMES) + 1
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert len(page.data["map"]["points"]) == shape[0] * shape[1]


def test_states_that_are_not_finite_leave_gaps(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", until="directions")
    path = run / "map/manifold.safetensors"
    found = load_record(Manifold, path)
    found.harmful[BEST_STATE, 3] = torch.nan
    found.codebook[BEST_STATE, 2] = torch.inf
    save_record(found, path)
    write_figures(run)
    rows = table(run / "figures/manifold.csv")
    assert [(row["kind"], row["number"]) for row in rows if row["x"] == ""] == [("harmful", "3"), ("unit", "2")]
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.data["manifold"]["states"][BEST_STATE]["x"][2][2] is None


def test_the_page_tells_of_every_unit_what_the_figures_tell(run: Path) -> None:
    page = Page(write_report(run).read_text(encoding="utf-8"))
    map_data, rows = page.data["map"], table(run / "figures/map.csv")
    state = map_data["states"][map_data["start"]]
    assert state["index"] == BEST_STATE
    for unit, row in enumerate(rows):
        for key, column in {"auroc": "auroc", "low": "auroc_low", "high": "auroc_high", "odds": "log_odds"}.items():
            assert (state[key][unit] is None) == (row[column] == "")
            assert state[key][unit] is None or state[key][unit] == pytest.approx(float(row[column]))
        told = map_data["people"]["units"][unit]
        assert row["categories"].split("; ")[: len(told)] == [f"{name}: {count}" for name, count in told] or not told
    assert sum(tag == "use" for tag, _ in page.elements) == 33 + 2 * 16  # cells between units; cells and marks of units
