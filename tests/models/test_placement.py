"""Weights on disk or quantized: the same states, the same live edits, and weights that can be read."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from tests.packed_files import save_mxfp4
from tests.tiny_models import END, START, save_tiny

from sombrero.architectures import resolve_writers
from sombrero.config import ModelConfig, load_config
from sombrero.edits import live_edit
from sombrero.errors import ModelError, UsageError
from sombrero.models import describe, load_model, products, with_plain_shapes
from sombrero.models.weights import is_offloaded, read_weight
from sombrero.records import LowRankEdit, ModelEdit, ModelHandle, Prompt, RenderedPrompt, Writer
from sombrero.states import collect_states

TEXTS = ("kill a process", "bake a cake", "say no", "how do I paint a very long wall")
LIMIT = "cpu=120KB"
"""Of 210 kB of weights."""
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("tiny") / "model", attention_bias=True, max_shard_size="60KB")


def load(folder: Path, **values: object) -> tuple[ModelHandle, tuple[Writer, ...]]:
    config = ModelConfig.model_validate({"source": str(folder), "device": "cpu", **values})
    handle = load_model(config)
    return handle, resolve_writers(with_plain_shapes(handle.model), describe(handle.model, config))


def prompts(handle: ModelHandle) -> list[RenderedPrompt]:
    shown = [f"{START}user\n{text}{END}\n{START}assistant\n" for text in TEXTS]
    rows = [tuple(handle.tokenizer(text)["input_ids"]) for text in shown]
    return [
        RenderedPrompt(Prompt(str(i), text), text, row) for i, (text, row) in enumerate(zip(shown, rows, strict=True))
    ]


def project_out(writers: tuple[Writer, ...], handle: ModelHandle) -> ModelEdit:
    """An edit of every writer, made from the weights as they are read, which removes one direction."""
    noise = torch.randn(writers[0].d_out, 1, generator=torch.Generator().manual_seed(3))
    direction = torch.nn.functional.normalize(noise, dim=0)
    edit = {}
    for writer in writers:
        W = read_weight(handle.model, f"{writer.module_path}.weight").float()
        c = None
        if writer.bias_name is not None:
            c = direction.T @ read_weight(handle.model, f"{writer.module_path}.bias").float()
        edit[writer.name] = LowRankEdit(direction, W.T @ direction, c, 1.0)
    return edit


def last_logits(handle: ModelHandle) -> torch.Tensor:
    with torch.inference_mode():
        rows = [torch.tensor([p.token_ids], device=handle.device) for p in prompts(handle)]
        return torch.cat([handle.model(input_ids=ids).logits[:, -1] for ids in rows])


@pytest.mark.parametrize("limit", [LIMIT, "cpu=1KB"])
def test_a_model_on_disk_gives_the_same_states_and_edits(
    limit: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_gaining_dtypes", tuple)  # packed weights in memory add in another order
    whole, writers = load(folder)
    spread, same = load(folder, max_memory=limit, offload_folder=tmp_path)
    assert same == writers
    on_disk = [writer for writer in writers if is_offloaded(spread.model.get_submodule(writer.module_path))]
    assert len(on_disk) >= len(writers) // 2
    assert spread.device == torch.device("cpu")
    found, expected = (
        collect_states(h, describe(h.model, ModelConfig()), writers, prompts(h), key_positions=3)
        for h in (spread, whole)
    )
    assert torch.equal(found.hidden, expected.hidden)
    assert all(torch.equal(found.writer_inputs[w.name], expected.writer_inputs[w.name]) for w in writers)
    edit = project_out(writers, spread)
    assert all(torch.equal(edit[name].A, other.A) for name, other in project_out(writers, whole).items())
    before = last_logits(spread)
    for rounded in (False, True):
        with live_edit(spread, writers, edit, rounded=rounded), live_edit(whole, writers, edit, rounded=rounded):
            assert torch.equal(last_logits(spread), last_logits(whole))
            assert not torch.allclose(last_logits(spread), before, atol=0.1)
    assert torch.equal(last_logits(spread), before)
    assert all(spread.model.get_submodule(w.module_path).weight.is_meta for w in on_disk)


def test_a_weight_on_disk_is_read_for_the_reader_alone(folder: Path) -> None:
    whole, writers = load(folder)
    spread, _ = load(folder, max_memory="cpu=1KB")
    for writer in writers:
        path = f"{writer.module_path}.weight"
        assert torch.equal(read_weight(spread.model, path), whole.model.get_parameter(path))
        assert spread.model.get_parameter(path).is_meta
        in_memory = read_weight(whole.model, path)
        assert in_memory.data_ptr() == whole.model.get_parameter(path).data_ptr()


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", ["bnb-8bit", "bnb-4bit"])
def test_a_quantized_model_is_edited_without_its_plain_weights(quantization: str, tmp_path: Path) -> None:
    from bitsandbytes.functional import has_avx512bf16

    # with bfloat16 at hand the library multiplies 4 bits in it, and then takes rows of whole blocks of 64 alone
    error = 1e-5 if quantization == "bnb-4bit" and not has_avx512bf16() else 0.02
    folder = save_tiny("llama", tmp_path / "model", attention_bias=True, width=64)
    whole, expected = load(folder)
    handle, writers = load(folder, quantization=quantization)
    assert writers == expected
    module = handle.model.get_submodule(writers[0].module_path)
    fresh = {w.name: read_weight(handle.model, f"{w.module_path}.weight") for w in writers}
    last_logits(handle)  # some kernels pack weights in another way on their first call
    packed = {w.name: handle.model.get_submodule(w.module_path).weight.clone() for w in writers}
    for writer in writers:
        path = f"{writer.module_path}.weight"
        plain, W = whole.model.get_parameter(path), read_weight(handle.model, path)
        torch.testing.assert_close(W, fresh[writer.name], rtol=5e-3, atol=1e-6)
        assert (
            W - plain
        ).norm() / plain.norm() < 0.3  # the library's own error: 0.21 at most, for 4 bits in a CPU's blocks
        x = torch.randn(5, writer.d_in, generator=torch.Generator().manual_seed(1))
        y = handle.model.get_submodule(writer.module_path)(x)
        linear = torch.nn.functional.linear(x, W.float(), handle.model.get_submodule(writer.module_path).bias)
        assert (y - linear).norm() < error * y.norm()
    states = collect_states(handle, describe(handle.model, ModelConfig()), writers, prompts(handle))
    assert torch.isfinite(states.hidden).all()
    edit = project_out(writers, handle)
    written: dict[bool, torch.Tensor] = {}
    V = edit[writers[0].name].V
    for edited in (False, True):
        with live_edit(handle, writers, edit if edited else {}):
            hook = module.register_forward_hook(
                lambda _m, _a, y, edited=edited: written.__setitem__(edited, (y.float() @ V).norm() / y.float().norm())
            )
            last_logits(handle)
            hook.remove()
    # what is left is the rounding of the library's own product, in halves or with its own input quantized
    assert written[True] < error * written[False]
    with live_edit(handle, writers, edit, rounded=True):
        assert torch.isfinite(last_logits(handle)).all()
    assert all(torch.equal(handle.model.get_submodule(w.module_path).weight, packed[w.name]) for w in writers)


def test_memory_limits_are_checked(folder: Path) -> None:
    for wrong in ("cpu", "cpu=lots", "gpu=1GB", {"0": 12}):
        with pytest.raises(UsageError, match="max_memory"):
            load_config(None, {"model": {"max_memory": wrong}})
    assert load_config(None, {"model": {"max_memory": "0=20GiB,cpu=1.5GB"}}).model.max_memory["cpu"] == "1.5GB"
    with pytest.raises(ModelError, match="device is cpu, but max_memory names 0, cpu"):
        load(folder, max_memory="0=1GB,cpu=1GB")


def test_an_automatic_map_of_a_small_model_is_memory_alone(folder: Path) -> None:
    handle, _ = load(folder, device_map="auto")
    assert {parameter.device.type for parameter in handle.model.parameters()} == {"cpu"}
    assert torch.equal(last_logits(handle), last_logits(load(folder)[0]))


def test_experts_on_disk_are_edited_as_in_memory(tmp_path: Path) -> None:
    folder, _ = save_mxfp4(tmp_path / "model")
    whole, writers = load(folder, dtype="float32")
    spread, same = load(folder, dtype="float32", max_memory="cpu=1KB", offload_folder=tmp_path / "disk")
    assert same == writers and any(writer.n_experts for writer in writers)
    V = torch.nn.functional.normalize(torch.randn(64, 1, generator=torch.Generator().manual_seed(3)), dim=0)
    edit = {writer.name: LowRankEdit(V, None, None, 1.0, U=V) for writer in writers if writer.n_experts}
    before = last_logits(spread)
    assert torch.equal(before, last_logits(whole))
    for rounded in (False, True):
        with live_edit(spread, writers, edit, rounded=rounded), live_edit(whole, writers, edit, rounded=rounded):
            assert torch.allclose(last_logits(spread), last_logits(whole), atol=1e-5)
            assert not torch.allclose(last_logits(spread), before, atol=0.01)
    assert torch.equal(last_logits(spread), before)
