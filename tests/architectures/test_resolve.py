import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, SmolLM3Config

from sombrero.architectures import find_architecture, get_layers, known_classes, resolve_writers
from sombrero.errors import ArchitectureError
from tests.tiny_models import FAMILIES, FAMILIES_WITH_OUTPUT_BIAS, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_writers_are_modules_and_checkpoint_tensors(family: str) -> None:
    model = tiny_model(family)
    architecture = find_architecture(model)
    writers = resolve_writers(model, architecture)
    assert architecture.family == family
    assert [w.name for w in writers] == [f"{i}.{kind}" for i in range(4) for kind in ("attention", "mlp")]
    tensors = model.state_dict()
    for writer in writers:
        assert tensors[writer.weight_name].shape == (writer.d_out, writer.d_in)
        assert model.get_submodule(writer.module_path).weight is not None
        assert writer.bias_name is None


@pytest.mark.parametrize("family", FAMILIES_WITH_OUTPUT_BIAS)
def test_biases_are_named_where_the_configuration_makes_them(family: str) -> None:
    model = tiny_model(family, attention_bias=True)
    writers = resolve_writers(model, find_architecture(model))
    named = [w.bias_name for w in writers if w.kind == "attention"]
    assert all(name in model.state_dict() for name in named)


def test_smollm3_is_served() -> None:
    config = SmolLM3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert len(resolve_writers(model, find_architecture(model))) == 4


def test_an_unknown_class_lists_the_writers_that_are_missing() -> None:
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=32,
        )
    )  # fmt: skip
    with pytest.raises(ArchitectureError, match=r"GPTNeoXForCausalLM is not described.*lacks "):
        find_architecture(model)


def test_a_missing_writer_is_named() -> None:
    model = tiny_model("llama")
    architecture = find_architecture(model)
    del model.model.layers[1].self_attn.o_proj
    with pytest.raises(ArchitectureError, match=r"1 writers cannot be found: model\.layers\.1\.self_attn\.o_proj"):
        resolve_writers(model, architecture)


def test_a_layer_count_that_disagrees_is_an_error() -> None:
    model = tiny_model("llama")
    architecture = find_architecture(model)
    del model.model.layers[3]
    with pytest.raises(ArchitectureError, match="says 4 layers, the model has 3"):
        get_layers(model, architecture)


def test_a_bias_that_nobody_described_is_an_error() -> None:
    model = tiny_model("mistral")
    model.model.layers[0].self_attn.o_proj.bias = torch.nn.Parameter(torch.zeros(32))
    with pytest.raises(ArchitectureError, match="names no bias tensor"):
        resolve_writers(model, find_architecture(model))


def test_every_class_exists_in_transformers() -> None:
    import transformers

    assert set(known_classes()) >= {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
    assert [name for name in known_classes() if not hasattr(transformers, name)] == []
