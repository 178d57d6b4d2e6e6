"""Torch tensors in: the same maps as of arrays, and tensors out, on the device that they came from."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from sombrero.som import SelfOrganizingMap, fit_layers
from sombrero.som.layer_rows import working_dtype
from sombrero.som.spaces import precise_dtype
from tests.som.samples import clustered

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if torch.mps.is_available() else [])]
RULES = [{"rule": "batch"}, {"rule": "online", "n_steps": 300}]


@pytest.mark.parametrize("settings", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_is_mapped_as_its_array_is(dtype: torch.dtype, settings: dict[str, object]) -> None:
    tensor = torch.from_numpy(clustered(80, 20, seed=0)[0]).to(dtype)
    ours = SelfOrganizingMap(3, 3, random_state=0, **settings)  # type: ignore[arg-type]
    theirs = SelfOrganizingMap(3, 3, random_state=0, **settings).fit(tensor.numpy())  # type: ignore[arg-type]
    labels, distances = ours.fit_predict(tensor), ours.fit_transform(tensor)
    for result in (labels, distances, ours.predict(tensor), ours.transform(tensor)):
        assert isinstance(result, torch.Tensor) and result.device == tensor.device
    assert isinstance(ours.codebook_, np.ndarray) and np.array_equal(ours.codebook_, theirs.codebook_)
    assert distances.dtype == dtype and np.array_equal(distances.numpy(), theirs.transform(tensor.numpy()))
    assert labels.dtype == torch.int64 and (labels.numpy() == theirs.labels_).all()
    assert ours.score(tensor) == theirs.score(tensor.numpy())
    assert isinstance(ours.predict(tensor.numpy()), np.ndarray)


@pytest.mark.parametrize("settings", RULES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_any_device_gives_the_same_map(device: str, settings: dict[str, object]) -> None:
    samples = clustered(80, 20, seed=0)[0]
    here = SelfOrganizingMap(2, 2, random_state=0, **settings).fit(samples)  # type: ignore[arg-type]
    there = SelfOrganizingMap(2, 2, random_state=0, device=device, **settings).fit(samples)  # type: ignore[arg-type]
    np.testing.assert_allclose(there.codebook_, here.codebook_, rtol=1e-4, atol=1e-4)
    tensor = torch.from_numpy(samples).to(device)
    assert there.predict(tensor).device == tensor.device and isinstance(there.predict(samples), np.ndarray)
    maps = fit_layers(tensor[:, None], n_rows=2, n_columns=2, **settings)  # type: ignore[arg-type]
    assert maps.codebook.device == tensor.device
    np.testing.assert_allclose(maps.codebook[0].cpu(), here.codebook_, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_other_real_tensors_become_float32(dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(clustered(60, 12, seed=1)[0]).to(dtype)
    som = SelfOrganizingMap(2, 2, random_state=0).fit(tensor)
    assert som.codebook_.dtype == np.float32
    np.testing.assert_array_equal(som.codebook_, SelfOrganizingMap(2, 2, random_state=0).fit(tensor.float()).codebook_)


def test_float64_is_asked_only_of_devices_that_have_it() -> None:
    mps, cpu = torch.device("mps"), torch.device("cpu")
    assert precise_dtype(mps) == working_dtype(torch.float64, mps) == torch.float32
    assert precise_dtype(cpu) == working_dtype(torch.float64, cpu) == torch.float64


def test_gradients_are_not_followed_and_memory_is_not_shared() -> None:
    tensor = torch.from_numpy(clustered(60, 12, seed=1)[0]).requires_grad_()
    som = SelfOrganizingMap(2, 2, random_state=0).fit(tensor)
    before = som.codebook_.copy()
    with torch.no_grad():
        tensor.zero_()
    assert np.array_equal(som.codebook_, before)
    assert not som.transform(tensor).requires_grad


def test_a_fitted_map_can_be_pickled_and_asked_for_frames() -> None:
    tensor = torch.from_numpy(clustered(60, 12, seed=1)[0])
    som = pickle.loads(pickle.dumps(SelfOrganizingMap(2, 2, random_state=0).fit(tensor)))
    frame = som.set_output(transform="pandas").transform(tensor)
    assert list(frame.columns) == list(som.get_feature_names_out())
    np.testing.assert_allclose(frame.to_numpy(), som.set_output(transform="default").transform(tensor).numpy())
