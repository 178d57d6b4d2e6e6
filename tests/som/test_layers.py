"""Maps of many layers at once: the same as one by one, whatever the chunks and the threads."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from sombrero.errors import NumericalError, UsageError
from sombrero.som import LayerMaps, SelfOrganizingMap, fit_layers, layers
from tests.som.samples import clustered, isotropic

BATCH = {"rule": "batch"}
ONLINE = {"rule": "online", "n_steps": 500}


def states(n: int = 70, d: int = 90) -> torch.Tensor:
    """Six layers ``(n, 6, d)``: constant (as embeddings of one token are), noise, clusters, and two with an offset."""
    constant = np.ones((n, d), dtype=np.float32) * isotropic(1, d, 9)
    noise, clusters = isotropic(n, d, 0), clustered(n, d, 1)[0]
    two_values = np.where(np.arange(n)[:, None] % 2, constant, noise[:1])
    return torch.from_numpy(np.stack([constant, noise, clusters, 50 + noise, 1000 * clusters, two_values], axis=1))


def assert_same(one: LayerMaps, other: LayerMaps) -> None:
    for field in fields(LayerMaps):
        torch.testing.assert_close(getattr(one, field.name), getattr(other, field.name), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("settings", [BATCH, ONLINE])
def test_layers_together_equal_layers_alone(settings: dict[str, object]) -> None:
    hidden = states()
    together = fit_layers(hidden, n_rows=3, n_columns=3, **settings)  # type: ignore[arg-type]
    alone = [fit_layers(hidden[:, [layer]], n_rows=3, n_columns=3, **settings) for layer in range(6)]  # type: ignore[arg-type]
    joined = LayerMaps(*(torch.cat([getattr(maps, field.name) for maps in alone]) for field in fields(LayerMaps)))
    assert_same(together, joined)


@pytest.mark.parametrize("settings", [BATCH, ONLINE])
@pytest.mark.parametrize("d", [20, 90])
def test_chunks_do_not_matter(settings: dict[str, object], d: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = states(d=d)
    whole = fit_layers(hidden, n_rows=2, n_columns=4, **settings)  # type: ignore[arg-type]
    monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    assert_same(whole, fit_layers(hidden, n_rows=2, n_columns=4, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [BATCH, ONLINE])
def test_threads_do_not_matter(settings: dict[str, object]) -> None:
    hidden, before = states(n=600), torch.get_num_threads()
    outcomes = []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            outcomes.append(fit_layers(hidden, seed=7, **settings))  # type: ignore[arg-type]
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    for other in outcomes[1:]:
        for field in fields(LayerMaps):
            assert torch.equal(getattr(outcomes[0], field.name), getattr(other, field.name))


@pytest.mark.parametrize("settings", [BATCH, ONLINE])
def test_shapes_types_and_hits(settings: dict[str, object]) -> None:
    hidden = states()
    maps = fit_layers(hidden.to(torch.bfloat16), **settings)  # type: ignore[arg-type]
    assert maps.codebook.shape == (6, 16, 90)
    assert maps.codebook.dtype == maps.quantization_error.dtype == maps.topographic_error.dtype == torch.float32
    assert maps.best_units.shape == (6, 70) and maps.best_units.dtype == torch.int64
    assert maps.hit_counts.sum(dim=1).tolist() == [70] * 6 and maps.hit_counts.dtype == torch.int64
    assert maps.u_matrix.shape == (6, 16) and maps.u_matrix.dtype == torch.float32
    assert all(torch.isfinite(getattr(maps, field.name)).all() for field in fields(LayerMaps))


@pytest.mark.parametrize("settings", [BATCH, ONLINE])
def test_constant_samples_give_a_constant_codebook(settings: dict[str, object]) -> None:
    hidden = states()
    maps = fit_layers(hidden[:, :1], **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(maps.codebook[0], hidden[0, :1].expand(16, -1))
    assert maps.quantization_error[0] < 1e-5 and maps.u_matrix.max() < 1e-5


def test_estimator_is_one_layer() -> None:
    hidden = states()
    maps = fit_layers(hidden, n_rows=2, n_columns=3, seed=3)
    for layer in range(1, 5):
        single = SelfOrganizingMap(2, 3, random_state=3).fit(hidden[:, layer].numpy())
        np.testing.assert_allclose(single.codebook_, maps.codebook[layer], rtol=1e-5, atol=1e-4)
        assert (single.labels_ == maps.best_units[layer].numpy()).all()


def test_a_large_offset_does_not_matter() -> None:
    samples = torch.from_numpy(clustered(100, 64, seed=2)[0])[:, None]
    near, far = fit_layers(samples, n_rows=3), fit_layers(samples + 4096.0, n_rows=3)
    assert torch.equal(near.best_units, far.best_units)
    torch.testing.assert_close(near.quantization_error, far.quantization_error, rtol=1e-3, atol=0)


def test_what_cannot_be_mapped_is_refused() -> None:
    hidden = states()
    with pytest.raises(UsageError, match="70 samples for a map of 100 units"):
        fit_layers(hidden, n_rows=10, n_columns=10)
    with pytest.raises(UsageError, match=r"shape \(70, 90\)"):
        fit_layers(hidden[:, 0])
    with pytest.raises(UsageError, match="sigma is -1"):
        fit_layers(hidden, sigma=-1.0)
    with pytest.raises(UsageError, match="abacus"):
        fit_layers(hidden, device="abacus")
    hidden[3, 2, 5] = float("nan")
    with pytest.raises(NumericalError, match="NaN"):
        fit_layers(hidden)
