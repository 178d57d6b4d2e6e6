"""Loading a model: what it gives, and what it says when something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from tests.tiny_models import FAMILIES, N_LAYERS, WIDTH, save_tiny, tiny_model

from sombrero.architectures import find_architecture, resolve_writers
from sombrero.config import ModelConfig
from sombrero.errors import ArchitectureError, ModelError
from sombrero.models import check_folder, load_model, load_skeleton, locate, resolve_device
from sombrero.models.load import computing_dtype


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny("llama", tmp_path / "model")


def config(folder: Path, **values: object) -> ModelConfig:
    return ModelConfig.model_validate({"source": str(folder), "device": "cpu", **values})


def test_a_folder_is_loaded_ready_for_inference(tiny: Path) -> None:
    handle = load_model(config(tiny, revision="main"))
    assert (handle.source, handle.folder, handle.revision) == (str(tiny), tiny, "main")
    assert not handle.model.training
    assert not any(parameter.requires_grad for parameter in handle.model.parameters())
    expected = tiny_model("llama").state_dict()
    assert all(value.equal(expected[name]) for name, value in handle.model.state_dict().items())
    assert handle.device == torch.device("cpu")
    assert handle.tokenizer.pad_token_id is not None


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("asked", ["auto", "bfloat16", "float16", "float32"])
@pytest.mark.parametrize("has_bfloat16", [False, True])
def test_the_dtype_is_the_one_asked_for_or_the_stored_one(
    stored: torch.dtype, asked: str, has_bfloat16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bfloat16})
    folder = save_tiny("qwen3", tmp_path / "model", dtype=stored)
    automatic = stored if has_bfloat16 else torch.float32
    handle = load_model(config(folder, dtype=asked))
    assert handle.model.dtype == (automatic if asked == "auto" else getattr(torch, asked))
    assert handle.stored_dtype == stored


def test_halves_stay_halves_where_there_is_arithmetic_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": False})
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert computing_dtype(dtype, torch.device("cpu")) == torch.float32
        assert computing_dtype(dtype, torch.device("cuda")) == dtype
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": True})
    assert computing_dtype(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
    assert computing_dtype(torch.float16, torch.device("cpu")) == torch.float32


def test_a_tokenizer_without_padding_pads_with_its_end_token(tiny: Path) -> None:
    settings = json.loads((tiny / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tiny / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_model(config(tiny)).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


# Devices


def test_auto_is_a_device_that_is_there() -> None:
    device = resolve_device("auto")
    assert torch.ones(1, device=device).sum() == 1
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        assert device == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "quantum", "cpu:x", "cuda:999", "meta:"])
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises(ModelError, match=r"the device .* cannot be used.*use cpu, cuda"):
        resolve_device(name)


# From the configuration alone


@pytest.mark.parametrize("family", FAMILIES)
def test_a_skeleton_needs_the_configuration_alone(family: str, tmp_path: Path) -> None:
    tiny_model(family).config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    model = load_skeleton(config(tmp_path))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    shapes = {name: parameter.shape for name, parameter in tiny_model(family).named_parameters()}
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    writers = resolve_writers(model, find_architecture(model))
    assert len(writers) == 2 * N_LAYERS and {writer.d_out for writer in writers} == {WIDTH}


@pytest.mark.parametrize("text", ["", "{", '{"model_type": "no_such_type"}', "[]", '{"model_type": "vit"}'])
def test_a_configuration_of_no_causal_model_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="has no configuration that describes a causal model"):
        load_skeleton(config(tmp_path))


def test_a_class_that_nobody_described_names_the_closest_family(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig

    GPTNeoXConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ArchitectureError, match=r"GPTNeoXForCausalLM is not described. Closest family: \w+; it lacks"):
        find_architecture(load_skeleton(config(tmp_path)))


# What is missing


@pytest.mark.parametrize("source", ["gpt2", "./none", "/no/where", "~/none-such", "a/b/c"])
def test_what_is_neither_a_folder_nor_an_id_is_an_error(source: str) -> None:
    with pytest.raises(ModelError, match=r"no folder .*give an existing checkpoint folder, a hub id \(owner/name\)"):
        locate(ModelConfig(source=source))


def test_a_file_is_no_checkpoint(tiny: Path) -> None:
    with pytest.raises(ModelError, match="is a file; give the folder"):
        locate(config(tiny / "config.json"))


@pytest.mark.parametrize("source", ["nobody/no-such-model", "no body/no model", "nobody/--bad--"])
def test_an_unknown_id_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot find or fetch .*\(revision v1\).*Check the spelling"):
        locate(ModelConfig(source=source, revision="v1"))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        (("config.json",), r"has no config\.json"),
        (("model.safetensors",), r"has no safetensors weights"),
        (("tokenizer.json",), r"has no tokenizer \(no tokenizer\.json, .*copy the tokenizer files of its base model"),
        (("chat_template.jinja",), r"has no chat template.*put chat_template\.jinja into the folder"),
    ],
)
def test_what_a_checkpoint_lacks_is_named(removed: tuple[str, ...], message: str, tiny: Path) -> None:
    for name in removed:
        (tiny / name).unlink()
    with pytest.raises(ModelError, match=message):
        load_model(config(tiny))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickles_are_never_loaded(name: str, tiny: Path) -> None:
    (tiny / "model.safetensors").rename(tiny / name)
    with pytest.raises(ModelError, match=r"pickle weights only .*save_pretrained"):
        check_folder(tiny, "tiny")
    with pytest.raises(ModelError, match="pickle weights only"):
        load_model(config(tiny))


@pytest.mark.parametrize("keep", [0, 7, 100, -100])
def test_damaged_weights_are_an_error(keep: int, tiny: Path) -> None:
    data = (tiny / "model.safetensors").read_bytes()
    (tiny / "model.safetensors").write_bytes(data[:keep])
    with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded: \S"):
        load_model(config(tiny))


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_tokenizer_is_an_error(text: str, tiny: Path) -> None:
    (tiny / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
        load_model(config(tiny))


def test_code_of_a_model_is_not_run_unless_asked_for(tiny: Path) -> None:
    (tiny / "code.py").write_text("raise SystemExit('the code of the model ran')\n")
    settings = json.loads((tiny / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (tiny / "config.json").write_text(json.dumps(settings))
    assert ModelConfig().trust_remote_code is False
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(config(tiny))
    with pytest.raises(ModelError, match="has no configuration that describes a causal model"):
        load_skeleton(config(tiny))
