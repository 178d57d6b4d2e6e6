"""The figures: the map's geometry and numbers, the layers' profile, the front, and how numbers are written."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from sombrero.directions.geometry import effective_rank as reference_rank
from sombrero.records import Proportion
from sombrero.reports.lattice_shapes import centres, extent, hit_scale, outline
from sombrero.reports.layer_numbers import effective_rank
from sombrero.reports.layers_section import layers_section
from sombrero.reports.map_section import MOST_CELLS, drawing, kept_states, map_section, state_numbers
from sombrero.reports.origin_section import origin_section, toml_lines
from sombrero.reports.run_files import read_run
from sombrero.reports.static_map import draw_map
from sombrero.reports.strip_states import strip_states
from sombrero.reports.trials_section import LEAST_KL, pareto_front, trials_section
from sombrero.reports.unit_numbers import unit_numbers
from sombrero.reports.wording import count, duration, interval, number, script_json, visible
from sombrero.som.lattice import Lattice
from tests.reports.map_records import direction_sets
from tests.reports.run_folders import refusal_map, write_run


@pytest.mark.parametrize("lattice", ["hexagonal", "rectangular"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4), (4, 4), (5, 2)])
def test_units_are_drawn_where_the_map_has_them(lattice: str, shape: tuple[int, int]) -> None:
    assert np.allclose(centres(*shape, lattice), Lattice(*shape, lattice).coordinates)


@pytest.mark.parametrize("lattice", ["hexagonal", "rectangular"])
def test_cells_of_neighbours_touch_and_lie_inside_the_extent(lattice: str) -> None:
    corners = np.array(outline(lattice))
    points = np.array(centres(4, 5, lattice))
    left, top, width, height = extent(4, 5, lattice)
    everywhere = (points[:, None] + corners).reshape(-1, 2)
    assert np.allclose(everywhere.min(axis=0), (left, top))
    assert np.allclose(everywhere.max(axis=0), (left + width, top + height))
    assert shoelace(corners) == pytest.approx(
        1.0 if lattice == "rectangular" else np.sqrt(3) / 2
    )  # cells fill the plane


def shoelace(corners: np.ndarray) -> float:
    x, y = corners.T
    return float(0.5 * abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def test_hit_marks_grow_with_the_count() -> None:
    sizes = [hit_scale(hits, 100) for hits in range(101)]
    assert sizes[0] == 0.0 and sizes == sorted(sizes) and 0 < sizes[1] < sizes[100] < 1
    assert (hit_scale(100, 100) / hit_scale(50, 100)) ** 2 == pytest.approx(2.0)


def test_the_map_tells_the_units_own_numbers(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    found, som = run.refusal_map, run.som
    assert found is not None and som is not None
    told = unit_numbers(run, 5)
    assert told.hits == found.hit_counts[5].tolist()
    for rank, unit in enumerate(som.units[5].tolist()):
        assert told.rank[unit] == rank + 1
        assert told.auroc[unit] == pytest.approx(float(som.auroc[5, rank]), rel=1e-3)
        assert told.low[unit] == pytest.approx(float(som.auroc_low[5, rank]), rel=1e-3)
        assert told.u[unit] == pytest.approx(float(found.u_matrix[5, unit]), rel=1e-3)
    state = state_numbers(found, told)
    shown = drawing(found, state)
    assert [cell["hits"] for cell in shown["cells"]] == told.hits
    values, painted = [*state["u"], *state["between"]], [cell["fill"] for cell in (*shown["cells"], *shown["links"])]
    far, near = values.index(max(values)), values.index(min(values))
    assert (painted[far], painted[near]) == ("#00224e", "#fee838")


def test_the_map_opens_at_the_best_state(tmp_path: Path) -> None:
    view = map_section(read_run(write_run(tmp_path / "run")))
    assert view is not None
    assert (view["best"], view["states"][view["start"]]["index"]) == (8, 8)
    assert len(view["states"]) == 13 and view["left_out"] == 0


def test_large_maps_leave_states_out_but_never_the_best() -> None:
    kept = kept_states(129, 400, 77)
    assert {0, 77, 128} <= set(kept) and len(kept) * 400 <= MOST_CELLS + 400


def test_effective_rank_is_that_of_the_units_that_were_hit() -> None:
    found = direction_sets(refusal_map())["som"]
    hits = found.hit_counts.clone()
    hits[:, 5:] = 0
    assert torch.allclose(effective_rank(found.vectors, hits).float(), reference_rank(found.vectors[:, :5]), rtol=1e-4)


def test_layer_profile(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    view = layers_section(run)
    assert view is not None and run.single is not None and run.coverage is not None
    lines = {trace["name"]: trace["y"] for trace in view["figure"]["data"]}
    assert lines["most salient unit"] == pytest.approx(run.som.auroc[:, 0].tolist(), rel=1e-3)
    assert lines["most salient unit, 95%"] == pytest.approx(run.som.auroc_low[:, 0].tolist(), rel=1e-3)
    assert lines["topographic error"] == pytest.approx(run.refusal_map.topographic_error.tolist(), rel=1e-3)
    assert lines["single direction"] == pytest.approx(run.single.auroc[:, 0].tolist(), rel=1e-3)
    assert lines["accounting error"][0] is None
    assert lines["accounting error"][1:] == pytest.approx([entry.relative_error for entry in run.coverage], rel=1e-3)
    assert len(view["rows"]) == 13 and all(len(row) == len(view["columns"]) for row in view["rows"])


def test_the_front_is_what_no_other_trial_beats(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", n_trials=200))
    assert run.trials is not None
    front = pareto_front(run.trials)
    generated = [t for t in run.trials if t.state == "generated" and t.kl is not None and t.rate is not None]
    for trial in generated:
        beaten = any(f.rate <= trial.rate and f.kl <= trial.kl for f in front if f is not trial)
        assert beaten != (trial in front)
    assert [t.kl for t in front] == sorted(t.kl or 0.0 for t in front)


def test_trials_chart(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    trial = dataclasses.replace(run.trials[3], kl=0.0)
    run = dataclasses.replace(run, trials=(*run.trials[:3], trial, *run.trials[4:]))
    view = trials_section(run)
    assert view is not None
    groups = {trace["name"]: trace for trace in view["figure"]["data"]}
    assert len(groups["generated"]["x"]) == view["counts"]["generated"]
    assert len(groups["screened (refusals predicted)"]["x"]) == view["counts"]["screened"]
    assert groups["picked"]["x"] == [LEAST_KL] and groups["picked"]["y"] == pytest.approx([3 / 64], rel=1e-3)
    assert "KL 0.00" in groups["picked"]["hovertext"][0]  # the true value
    assert [row["number"] for row in view["finalists"]] == [3, 1, 0]
    assert [row["chosen"] for row in view["finalists"]] == [True, False, False]


@pytest.mark.parametrize(("shape", "lattice"), [((4, 4), "hexagonal"), ((1, 1), "hexagonal"), ((3, 6), "rectangular")])
def test_the_picture(shape: tuple[int, int], lattice: str) -> None:
    from PIL import Image

    found = refusal_map(*shape, lattice=lattice)
    data = draw_map(found, direction_sets(found)["single"], "a $\\frac{name}$ \u202e 模型 " + "x" * 200)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    assert image.width > 1200 and len(data) < 600_000
    assert len(image.getcolors(maxcolors=image.width * image.height)) > 100


def test_strip_runs_from_the_embeddings_to_the_last_layer() -> None:
    assert strip_states(31, 6)[0] == 0 and strip_states(31, 6)[-1] == 30 and len(strip_states(31, 6)) == 6
    assert strip_states(2, 6) == [0, 1] and strip_states(1, 6) == [0]


def test_the_configuration_can_be_run_again(tmp_path: Path) -> None:
    import tomllib

    from sombrero.config import RunConfig

    odd = 'quotes " and \\ and\nlines \x7f \x01 é'
    run = read_run(write_run(tmp_path / "run", seed=7, prompts={"system_prompt": odd}, model={"source": "a b/c"}))
    view = origin_section(run)
    assert RunConfig.model_validate(tomllib.loads(view["config"])).model_dump(mode="json") == run.manifest["config"]
    assert view["command"] == "sombrero run 'a b/c' --config run.toml --out NEW_FOLDER"
    assert "# revision is not set" in list(toml_lines(run.manifest["config"]))


def test_wording() -> None:
    assert [number(x) for x in (0.0, 0.1312, 12.345, 1234.5, 4.5e-4, -0.5, None, float("nan"), float("inf"), 7)] == [
        "0.00", "0.131", "12.3", "1,234", "4.50e−4", "−0.500", "–", "–", "∞", "7",
    ]  # fmt: skip
    assert count(Proportion(4, 96, 0.0163, 0.1022)) == "4/96 (4.2%; 95% interval 1.6–10.2%)"
    assert interval(Proportion(0, 96, 0.0, 0.0387)) == "0.0–3.9%"
    assert [duration(s) for s in (0.25, 59, 61, 4000)] == ["0.2 s", "59.0 s", "1 min 01 s", "1 h 06 min"]


def test_text_is_made_visible_and_json_stays_inside_its_script() -> None:
    assert visible("a\r\nb\tc\rd\u202e\ud800 é 👩\u200d🚀") == "a\nb\tc⟨U+000D⟩d⟨U+202E⟩⟨U+D800⟩ é 👩\u200d🚀"
    text = str(script_json(["</script>", "<!--", "\u2028", "&", "\ud800"]))
    assert text.isascii() and not set(text) & set("<>&")
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(float("nan"))
