"""Rows of a reserved cache that are regrouped hold what they held, at the end; what is padded is finite."""

from __future__ import annotations

import torch

from sombrero.models.cache import ReservedLayer


def filled(rows: int, length: int, room: int, start: float) -> tuple[ReservedLayer, torch.Tensor, torch.Tensor]:
    """A layer of two heads of width 3, and its keys and values: all numbers different."""
    keys = start + torch.arange(rows * 2 * length * 3, dtype=torch.float32).reshape(rows, 2, length, 3)
    layer = ReservedLayer(room)
    layer.update(keys, -keys)
    return layer, keys, -keys


def test_kept_rows_are_followed_by_those_that_join() -> None:
    for own, joining in ((7, 4), (4, 7)):
        layer, keys, values = filled(5, own + 2, 6, 1.0)
        other, other_keys, other_values = filled(2, joining, 0, 1000.0)
        layer.regroup(torch.tensor([3, 1]), own, 6, other)
        assert layer.get_seq_length() == max(own, joining)
        for found, old, new in zip(layer.states, (keys, values), (other_keys, other_values), strict=True):
            assert torch.equal(found[:2, :, -own:], old[[3, 1], :, 2:])
            assert torch.equal(found[2:, :, -joining:], new)
            assert not found[2:, :, :-joining].any() and not found[:2, :, :-own].any()


def test_steps_after_it_take_the_reserved_room() -> None:
    layer, _, _ = filled(3, 4, 0, 1.0)
    layer.regroup(torch.tensor([2]), 3, 2)
    place = layer.states[0].data_ptr()
    for length in (4, 5):
        keys, values = layer.update(torch.full((1, 2, 1, 3), 7.0), torch.full((1, 2, 1, 3), 8.0))
        assert keys.shape == values.shape == (1, 2, length, 3) and keys.data_ptr() == place
        assert (keys[:, :, -1] == 7).all() and (values[:, :, -1] == 8).all()


def test_a_gap_behind_the_beginning_is_closed() -> None:
    layer, keys, _ = filled(3, 6, 0, 1.0)
    layer.close_gap(torch.tensor([0, 2]), 2, 1)
    found = layer.states[0]
    assert torch.equal(found[[0, 2], :, 1:3], keys[[0, 2], :, :2])
    assert torch.equal(found[:, :, 3:], keys[:, :, 3:]) and torch.equal(found[1], keys[1])


def test_a_reset_layer_holds_nothing() -> None:
    layer, _, _ = filled(2, 3, 4, 1.0)
    layer.reset()
    assert layer.get_seq_length() == 0
    keys, _ = layer.update(torch.ones(1, 2, 2, 3), torch.ones(1, 2, 2, 3))
    assert torch.equal(keys, torch.ones(1, 2, 2, 3))
