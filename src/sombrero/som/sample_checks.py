"""Samples as a user gives them, an array-like or a torch tensor, checked as scikit-learn checks; and results alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import validate_data

from sombrero.som.spaces import precise_dtype


def checked_samples(estimator: Any, X: ArrayLike | torch.Tensor, reset: bool = False) -> torch.Tensor:
    """Samples ``(n, d)``, float32 or float64, on the estimator's device or where X is.

    reset: whether to take the number and names of features from X, or to compare them. Raises ValueError for another
    shape or number of features, for NaN and infinity, and for an unknown device; TypeError for values not numbers.
    """
    if isinstance(X, torch.Tensor):
        samples = _checked_tensor(X)
        validate_data(estimator, X, reset=reset, skip_check_array=True)  # features alone: a tensor may be on any device
    else:
        array = validate_data(estimator, X, dtype=[np.float64, np.float32], reset=reset)
        samples = torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy(order="C"))
    device = samples.device if estimator.device is None else _device(estimator.device)
    wide = samples.dtype == torch.float64 and precise_dtype(device) == torch.float64
    return samples.to(device, torch.float64 if wide else torch.float32)


def like_input(result: torch.Tensor, X: ArrayLike | torch.Tensor) -> NDArray[Any] | torch.Tensor:
    """A tensor on the device of X if X is one, else an array."""
    return result.to(X.device) if isinstance(X, torch.Tensor) else result.numpy(force=True)


def _checked_tensor(X: torch.Tensor) -> torch.Tensor:
    if X.ndim != 2:
        raise ValueError(f"Expected 2D array, got a tensor of shape {tuple(X.shape)}; give (n_samples, n_features)")
    for axis, what in enumerate(("sample", "feature")):
        if X.shape[axis] == 0:
            raise ValueError(f"Found 0 {what}(s) (shape={tuple(X.shape)}) while a minimum of 1 is required.")
    if X.is_complex():
        raise ValueError(f"Complex data not supported: the tensor is {X.dtype}")
    if not bool(torch.isfinite(X).all()):
        raise ValueError("Input X contains NaN or infinity; a map needs finite samples")
    return X.detach()


def _device(device: str | torch.device) -> torch.device:
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}; give one that torch knows, as 'cpu', 'cuda:1' or 'mps'") from error
