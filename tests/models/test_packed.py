"""Checkpoints in other formats: loaded equal to the plain model that they stand for."""

from __future__ import annotations

import shutil
from pathlib import Path

import gguf
import pytest
import torch
from tests.gguf_files import write_gguf
from tests.packed_files import save_fp8, save_mxfp4
from tests.tiny_models import VOCAB_SIZE, save_tiny, tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedModel
from transformers.integrations.finegrained_fp8 import FP8Linear

from sombrero.config import ModelConfig, RunConfig
from sombrero.errors import ModelError
from sombrero.models import load_model, load_skeleton, locate
from sombrero.models.weights import dequantize_blocks, read_weight
from sombrero.session import Session

IDS = torch.arange(24)[None]


def config(source: Path, **values: object) -> ModelConfig:
    return ModelConfig.model_validate({"source": str(source), "device": "cpu", **values})


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float()


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_every_float_dtype_is_loaded_as_it_is_stored(stored: torch.dtype, tmp_path: Path) -> None:
    folder = save_tiny("qwen2", tmp_path / "model", dtype=stored)
    handle = load_model(config(folder, dtype="float32"))
    assert handle.stored_dtype == stored
    expected = tiny_model("qwen2")
    expected.load_state_dict(tiny_model("qwen2", dtype=stored).state_dict())
    assert torch.equal(logits(handle.model), logits(expected))


def test_fp8_with_block_scales_is_dequantized(tmp_path: Path) -> None:
    folder, plain = save_fp8(tmp_path / "model")
    handle = load_model(config(folder, dtype="bfloat16"))
    assert handle.stored_dtype == torch.bfloat16
    found = handle.model.state_dict()
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())
    assert torch.isfinite(logits(handle.model)).all()


def test_mxfp4_experts_are_dequantized(tmp_path: Path) -> None:
    folder, plain = save_mxfp4(tmp_path / "model")
    handle = load_model(config(folder, dtype="bfloat16"))
    found = handle.model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.state_dict().items())
    plain.save_pretrained(tmp_path / "plain")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.bfloat16)
    assert torch.equal(logits(handle.model), logits(expected))
    assert handle.stored_dtype == torch.bfloat16


def test_packed_weights_are_not_quantized_again(tmp_path: Path) -> None:
    folder, _ = save_fp8(tmp_path / "model")
    with pytest.raises(ModelError, match="is stored as fp8, and cannot be quantized again by bnb-4bit"):
        load_model(config(folder, quantization="bnb-4bit"))


@pytest.mark.parametrize("shape", [(32, 48), (40, 20)])
def test_a_weight_that_stays_in_fp8_can_be_read(shape: tuple[int, int]) -> None:
    layer = FP8Linear(shape[1], shape[0], block_size=(16, 16))
    generator = torch.Generator().manual_seed(1)
    layer.weight.data = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    layer.weight_scale_inv.data = torch.rand(layer.weight_scale_inv.shape, generator=generator)
    found = read_weight(torch.nn.ModuleDict({"layer": layer}), "layer.weight")
    for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1), (17, 3)):
        scale = layer.weight_scale_inv[row // 16, column // 16]
        assert found[row, column] == (layer.weight[row, column].float() * scale).bfloat16()
    exponents = torch.full(layer.weight_scale_inv.shape, 126, dtype=torch.uint8)
    halved = dequantize_blocks(layer.weight.detach(), exponents, (16, 16))
    assert torch.equal(halved, (layer.weight.float() / 2).bfloat16())


def test_a_packing_that_nobody_knows_is_an_error() -> None:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.int16), requires_grad=False)
    with pytest.raises(ModelError, match=r"weight is packed as Parameter of torch\.int16, which cannot be unpacked"):
        read_weight(module, "weight")


# GGUF


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    model = tiny_model("llama")
    model.resize_token_embeddings(VOCAB_SIZE + 1, mean_resizing=False)
    return model


@pytest.mark.parametrize(("kind", "dtype"), [("F32", torch.float32), ("F16", torch.float16), ("Q8_0", torch.bfloat16)])
def test_a_gguf_file_is_loaded_as_what_it_stands_for(
    kind: str, dtype: torch.dtype, llama: PreTrainedModel, tmp_path: Path
) -> None:
    file = tmp_path / "given" / "tiny.gguf"
    file.parent.mkdir()
    kind_of_block = gguf.GGMLQuantizationType[kind]
    write_gguf(llama, tiny_tokenizer(), file, kind_of_block)
    settings = config(file, cache=tmp_path / "cache", dtype="float32")
    handle = load_model(settings)
    assert handle.stored_dtype == dtype
    for name, tensor in llama.state_dict().items():
        values = tensor.numpy()
        if values.ndim == 2:
            values = gguf.quants.dequantize(gguf.quants.quantize(values, kind_of_block), kind_of_block)
        assert torch.equal(handle.model.state_dict()[name], torch.from_numpy(values).to(dtype).float()), name
    assert handle.tokenizer("kill a process")["input_ids"] == tiny_tokenizer()("kill a process")["input_ids"]
    # a folder with that one file is the same model, and what the run's identity needs is there
    assert locate(config(file.parent, cache=tmp_path / "cache")) == handle.folder
    assert Session(RunConfig(model=settings)).identity["checkpoint"]
    assert load_skeleton(settings).num_parameters() == llama.num_parameters()


def test_gguf_files_that_cannot_be_one_model_are_an_error(llama: PreTrainedModel, tmp_path: Path) -> None:
    write_gguf(llama, tiny_tokenizer(), tmp_path / "a.gguf")
    shutil.copyfile(tmp_path / "a.gguf", tmp_path / "b.gguf")
    with pytest.raises(ModelError, match=r"has 2 GGUF files \(a\.gguf, b\.gguf\); name one"):
        locate(config(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(ModelError, match=r"GGUF file .*a\.gguf cannot be"):
        locate(config(tmp_path / "a.gguf", cache=tmp_path / "cache"))
    assert not list((tmp_path / "cache").glob("a-*"))


# Models that read images too


def test_a_multimodal_model_answers_text_and_keeps_all_its_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = {
        "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 512, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 8, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    whole = Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, image_token_index=1)
    )
    whole.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text("{}", encoding="utf-8")
    handle = load_model(config(tmp_path))
    assert type(handle.model) is Mistral3ForConditionalGeneration
    assert handle.model.state_dict().keys() == whole.state_dict().keys()
    assert torch.equal(logits(handle.model), logits(whole))
    assert type(load_skeleton(config(tmp_path))) is Mistral3ForConditionalGeneration


def test_the_text_part_of_a_multimodal_family_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    settings = Gemma3TextConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    Gemma3ForCausalLM(settings).save_pretrained(tmp_path)
    assert type(load_skeleton(config(tmp_path))) is Gemma3ForCausalLM
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path)) is Gemma3ForCausalLM
