"""Codecs: exact where nothing changes, nearest where something does, and as the loaders' own libraries decode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from sombrero.checkpoints.formats import (
    Codec,
    Requantization,
    edit_slices,
    find_codec,
    low_rank_slices,
    pieces,
    require_survival,
)
from sombrero.checkpoints.formats.mxfp4 import BLOCK, decode_blocks, encode_blocks
from sombrero.checkpoints.formats.scaled import decode_scales, encode_scales
from sombrero.checkpoints.header import TensorEntry
from sombrero.edits.kernels import edit_weight
from sombrero.errors import CheckpointError, NumericalError
from sombrero.records import LowRankEdit
from tests.checkpoints.stored import Memory, mxfp4, scaled

CODES = hnp.arrays(np.uint8, (3, 2, 16))
FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
FORMATS = ("F32", "BF16", "F16", "MXFP4", "fp8 block", "fp8 row", "fp8 tensor", "fp8 e8m0", "int8 row", "int8 group")
LARGEST_GAP = {"F32": 2**-24, "BF16": 2**-8, "F16": 2**-11, "MXFP4": 0.25, "fp8": 2**-4, "int8": 0.5 / 127}


def stored(name: str, weight: torch.Tensor) -> Memory:
    """The matrix ``weight`` in one of FORMATS."""
    rows, columns = weight.shape
    dense = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    if name in dense:
        return Memory({"w": weight.to(dense[name])})
    if name == "MXFP4":
        return Memory(mxfp4(weight))
    ways = {
        "fp8 block": {"block": (16, 16)},
        "fp8 row": {"block": (1, columns), "suffix": "_scale", "scale_dtype": torch.bfloat16},
        "fp8 tensor": {"block": (rows, columns), "suffix": "_scale"},
        "fp8 e8m0": {"block": (16, 16), "scale_dtype": torch.float8_e8m0fnu},
        "int8 row": {"block": (1, columns), "suffix": "_scale", "dtype": torch.int8},
        "int8 group": {"block": (1, 32), "suffix": "_scale", "dtype": torch.int8, "scale_dtype": torch.float16},
    }
    return Memory(scaled(weight, **ways[name]))


def codec_of(memory: Memory) -> Codec:
    return find_codec(memory.entries, "w")


def whole(memory: Memory) -> torch.Tensor:
    """The decoded weight ``(matrices, rows, columns)``."""
    codec = codec_of(memory)
    rows = [codec.decode(codec.read(memory.read, piece)) for piece in pieces(codec, 1 << 10)]
    return torch.cat(rows).reshape(codec.n_matrices, codec.n_rows, codec.n_columns)


def random_weight(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def projection(weight: torch.Tensor, strength: float = 1.0, rank: int = 1, seed: int = 1) -> LowRankEdit:
    generator = torch.Generator().manual_seed(seed)
    V = torch.linalg.qr(torch.randn(weight.shape[-2], rank, generator=generator)).Q
    return LowRankEdit(V, weight.T @ V, None, strength)


@settings(max_examples=40, deadline=None)
@given(CODES, hnp.arrays(np.uint8, (3, 2), elements=st.integers(1, 251)))
def test_every_mxfp4_block_survives_decoding_bit_for_bit(blocks: np.ndarray, scales: np.ndarray) -> None:
    stored_blocks, stored_scales = torch.from_numpy(blocks), torch.from_numpy(scales)
    values = decode_blocks(stored_blocks, stored_scales)
    again, again_scales = encode_blocks(values, stored_scales)
    assert torch.equal(again, stored_blocks) and torch.equal(again_scales, stored_scales)
    # a stack of experts, as transformers reads it: transposed after decoding
    reference = convert_moe_packed_tensors(stored_blocks[None], stored_scales[None], dtype=torch.float32)
    assert torch.equal(reference[0].T, values)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (2, 64), elements=FINITE))
def test_mxfp4_is_the_nearest_and_stable(values: np.ndarray) -> None:
    decoded = decode_blocks(*encode_blocks(torch.from_numpy(values)))
    assert torch.equal(decode_blocks(*encode_blocks(decoded)), decoded)
    x, found = (a.reshape(-1, BLOCK).astype(np.float64) for a in (values, decoded.numpy()))
    error = ((found - x) ** 2).sum(axis=1)
    for block, mine in zip(x, error, strict=True):
        exponent = max(float(np.floor(np.log2(np.abs(block).max() or 1.0))) - 2, -127.0)
        best = min(_nearest_error(block, exponent), _nearest_error(block, exponent + 1))
        assert mine <= best * (1 + 1e-5) + 1e-70
    step = 2.0 ** (np.frexp(np.abs(x).max(axis=1, keepdims=True))[1] - 3)
    assert np.all(np.abs(found - x) <= 2 * np.maximum(step, 2.0**-127))


def _nearest_error(block: np.ndarray, exponent: float) -> float:
    """Brute force: the squared error of a block of 32 with the exponent given."""
    grid = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6]) * 2.0**exponent
    return float(((np.abs(block)[:, None] - grid) ** 2).min(axis=1).sum())


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.uint8, (32, 32)), hnp.arrays(np.float32, (2, 2), elements=st.floats(2**-60, 2**60, width=32)))
def test_every_fp8_code_survives_and_is_decoded_as_transformers_does(codes: np.ndarray, scales: np.ndarray) -> None:
    codes[(codes & 0x7F) == 0x7F] = 0x38  # NaN
    weight = torch.from_numpy(codes).view(torch.float8_e4m3fn)
    memory = Memory({"w": weight, "w_scale_inv": torch.from_numpy(scales)})
    codec = codec_of(memory)
    (piece,) = pieces(codec, 1 << 20)
    before = codec.read(memory.read, piece)
    values = codec.decode(before)
    after = codec.encode(values, before)
    assert torch.equal(after[0].view(torch.uint8), weight.view(torch.uint8)) and torch.equal(after[1], before[1])
    assert torch.equal(values, Fp8Dequantize(None)._dequantize_one(weight, memory.tensor("w_scale_inv"), torch.float32))


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int8, (4, 64)), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_every_int8_code_survives(codes: np.ndarray, scale_dtype: torch.dtype) -> None:
    scales = torch.tensor([[0.25], [3e-3], [0.7], [11.0]]).to(scale_dtype)
    memory = Memory({"w": torch.from_numpy(codes), "w_scale": scales})
    codec = codec_of(memory)
    (piece,) = pieces(codec, 1 << 20)
    before = codec.read(memory.read, piece)
    after = codec.encode(codec.decode(before), before)
    assert torch.equal(after[0], before[0]) and torch.equal(after[1], before[1])


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float32, (8,), elements=st.floats(2**-14, 2**14, width=32)),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu, torch.uint8]),
)
def test_scales_are_the_smallest_that_cut_nothing_off(factors: np.ndarray, dtype: torch.dtype) -> None:
    wanted = torch.from_numpy(factors)
    scales = encode_scales(wanted, dtype)
    found = decode_scales(scales)
    assert bool((found >= wanted).all())
    raw = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[dtype.itemsize]
    assert bool((decode_scales((scales.view(raw) - 1).view(dtype)) < wanted).all())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("max_elements", [1, 300, 1 << 20])
def test_slices_of_any_size_give_the_edit_of_the_whole(name: str, max_elements: int) -> None:
    source = stored(name, random_weight(48, 64))
    before = whole(source)[0]
    edit = projection(before, strength=1.2, rank=3)
    memory = stored(name, random_weight(48, 64))
    found = edit_slices(
        codec_of(memory),
        source.read,
        memory.write,
        low_rank_slices(edit, rows_are_outputs=True),
        max_elements=max_elements,
    )
    wanted, after = edit_weight(before, edit, "linear").double(), whole(memory)[0].double()
    gap = next(value for key, value in LARGEST_GAP.items() if name.startswith(key))
    assert float((after - wanted).abs().max()) <= gap * float(wanted.abs().max()) * 1.3
    change, kept = wanted - before, after - before
    assert found.energy == pytest.approx(float(kept.norm() / before.norm()), rel=1e-4)
    assert found.survived == pytest.approx(float((kept * change).sum() / change.square().sum()), rel=1e-3)
    assert found.cosine == pytest.approx(float((kept * change).sum() / change.norm() / kept.norm()), rel=1e-3)
    assert found.relative_error == pytest.approx(float((after - wanted).norm() / change.norm()), rel=1e-2, abs=1e-6)


def test_a_transposed_weight_and_rescaled_rows() -> None:
    weight = random_weight(40, 64)
    edit = LowRankEdit(*projection(weight).__dict__.values())
    scale = torch.linspace(0.5, 1.5, 40)
    edit = LowRankEdit(edit.V, edit.A, None, 0.7, scale)
    for rows_are_outputs, matrix, layout in ((True, weight, "linear"), (False, weight.T.contiguous(), "conv1d")):
        memory = Memory({"w": matrix.clone()})
        edit_slices(
            codec_of(memory),
            memory.read,
            memory.write,
            low_rank_slices(edit, rows_are_outputs=rows_are_outputs),
            max_elements=200,
        )
        assert torch.allclose(memory.tensor("w"), edit_weight(matrix, edit, layout), atol=1e-6)  # type: ignore[arg-type]


def test_experts_are_edited_one_by_one_in_little_memory() -> None:
    experts = torch.stack([random_weight(32, 64, seed) for seed in range(3)])
    memory = Memory(mxfp4(experts))
    before = whole(memory)
    edits = [projection(matrix, strength=8.0) for matrix in before]
    edits[1] = LowRankEdit(edits[1].V, edits[1].A, None, 0.0)
    memory.largest_read = 0
    untouched = {name: memory.tensor(name)[1] for name in memory.data}
    found = edit_slices(
        codec_of(memory), memory.read, memory.write, low_rank_slices(edits, rows_are_outputs=True), max_elements=512
    )
    assert memory.largest_read <= 8 * 64 // 2
    after = whole(memory)
    for i in (0, 2):
        wanted = edit_weight(before[i], edits[i], "linear")
        assert float((after[i] - wanted).norm() / wanted.norm()) < 0.15
    assert all(torch.equal(memory.tensor(name)[1], tensor) for name, tensor in untouched.items())
    assert 0.9 < found.survived < 1.1


@pytest.mark.parametrize("name", FORMATS[1:])
def test_an_edit_too_small_for_the_format_changes_no_byte_and_is_refused(name: str) -> None:
    memory = stored(name, random_weight(32, 64))
    before = {key: bytes(data) for key, data in memory.data.items()}
    edit = projection(whole(memory)[0], strength=1e-9)
    found = edit_slices(codec_of(memory), memory.read, memory.write, low_rank_slices(edit, rows_are_outputs=True))
    assert memory.data == before and found.energy == 0 == found.cosine and found.survived == 0
    with pytest.raises(CheckpointError, match="0% of the edit"):
        require_survival({"w": found})
    assert require_survival({"w": found}, accept=True) == 0
    strong = Requantization("BF16", 1.0, 1e6 * found.change, 0.0, found.change, 1e6 * found.change)
    assert require_survival({"w": found, "other": strong}) > 0.99


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rank", [1, 3])
def test_rounding_can_carry_the_edit_over(name: str, rank: int) -> None:
    """What is written along V is what was meant, though nearest rounding of MXFP4 loses most of it."""
    source = stored(name, random_weight(1024, 64))
    weight = whole(source)[0]
    edit = projection(weight, strength=0.5, rank=rank)
    change = low_rank_slices(edit, rows_are_outputs=True)
    nearest, carried = Memory({}), Memory({})
    found = []
    for memory, carry in ((nearest, None), (carried, [edit.V])):
        memory.__dict__.update(stored(name, random_weight(1024, 64)).__dict__)
        found.append(edit_slices(codec_of(memory), source.read, memory.write, change, carry=carry))
    wanted = edit_weight(weight, edit, "linear")
    missed = [
        (edit.V.T @ (whole(memory)[0] - wanted)).norm() / (edit.V.T @ (wanted - weight)).norm()
        for memory in (nearest, carried)
    ]
    assert float(missed[1]) < 0.1 and found[1].survived == pytest.approx(1, abs=0.05)
    if name == "MXFP4":
        assert float(missed[0]) > 0.5 and found[0].survived < 0.3 and found[1].relative_error < 6
    if name in ("F32", "BF16", "F16"):
        assert carried.data == nearest.data


def test_what_cannot_be_read_is_refused() -> None:
    weight = random_weight(32, 64)
    fp8 = scaled(weight, (16, 16))
    cases: list[tuple[dict[str, torch.Tensor], str]] = [
        ({}, "not in the checkpoint"),
        ({"w": fp8["w"]}, "without scales"),
        ({"w_packed": torch.zeros(2, 2, dtype=torch.int8)}, "w_packed"),
        (fp8 | {"w_zero_point": torch.zeros(2, 2, dtype=torch.int8)}, "w_zero_point"),
        ({"w": fp8["w"], "w_scale_inv": torch.ones(3, 3)}, "no whole number of blocks"),
        (
            {"w_blocks": torch.zeros(2, 2, 15, dtype=torch.uint8), "w_scales": torch.zeros(2, 2, dtype=torch.uint8)},
            "not MXFP4",
        ),
        ({"w": torch.ones(3)}, "two axes"),
    ]
    for tensors, message in cases:
        with pytest.raises(CheckpointError, match=message):
            codec_of(Memory(tensors))
    with pytest.raises(CheckpointError, match="stored as I64"):
        find_codec({"w": TensorEntry("w", "f", "I64", (2, 2), 0, 32)}, "w")
    memory = Memory({"w": torch.ones(4, 4, dtype=torch.float16)})
    huge = LowRankEdit(torch.ones(4, 1), torch.ones(4, 1), None, 1e6)
    with pytest.raises(NumericalError, match="wider dtype"):
        edit_slices(codec_of(memory), memory.read, memory.write, low_rank_slices(huge, rows_are_outputs=True))


def test_blocks_that_end_at_the_edge() -> None:
    """A matrix that is no multiple of the block, as DeepSeek has one: the configuration says the block."""
    weight = random_weight(40, 72)
    memory = Memory(scaled(weight, (16, 32)))
    codec = find_codec(memory.entries, "w", (16, 32))
    decoded = torch.cat([codec.decode(codec.read(memory.read, piece)) for piece in pieces(codec, 1)])
    assert float((decoded - weight).abs().max()) <= 2**-4 * float(weight.abs().max())
