"""``sombrero inspect``: what a configuration alone tells, and nothing that it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sombrero import verbs
from sombrero.config import ModelConfig
from sombrero.errors import ArchitectureError
from sombrero.stages.inspecting import ranges
from tests.commands import Command
from tests.gguf_files import write_gguf
from tests.packed_files import save_mxfp4
from tests.tiny_models import N_LAYERS, VOCAB_SIZE, WIDTH, save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture
def sombrero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def inspect(source: Path, **values: object) -> dict[str, object]:
    return verbs.inspect(ModelConfig.model_validate({"source": str(source), "device": "cpu", **values}))


def test_a_configuration_alone_is_enough(tmp_path: Path) -> None:
    whole = inspect(save_tiny("llama", tmp_path / "model", dtype=torch.bfloat16, tie=True))
    (tmp_path / "model" / "model.safetensors").unlink()
    alone = inspect(tmp_path / "model")
    assert whole["checkpoint"]["bytes"] > 0 and alone["checkpoint"]["bytes"] is None  # type: ignore[index]
    assert {**alone, "checkpoint": None} == {**whole, "checkpoint": None}
    model = tiny_model("llama", tie=True)
    assert alone["parameters"] == model.num_parameters()
    touched = [p for name, p in model.named_parameters() if name.endswith(("o_proj.weight", "down_proj.weight"))]
    assert alone["parameters_touched"] == sum(p.numel() for p in touched)
    assert alone["writers"] == {"attention": N_LAYERS, "mlp": N_LAYERS}
    assert alone["writers_per_layer"] == [{"layers": "0-3", "writers": {"attention": 1, "mlp": 1}}]
    assert alone["chat_template"] is True
    assert "shared with the head" in alone["not_covered"][0]  # type: ignore[index]
    (tmp_path / "model" / "chat_template.jinja").unlink()
    assert inspect(tmp_path / "model")["chat_template"] is False


def test_memory_follows_its_formulae(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    plain, packed = inspect(folder)["memory_bytes"], inspect(folder, quantization="bnb-4bit")["memory_bytes"]
    model = tiny_model("llama")
    assert plain["weights"] == 4 * model.num_parameters()  # type: ignore[index]
    linear = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    saved = sum(int(3.5 * m.weight.numel()) for m in linear)
    assert packed["weights"] == plain["weights"] - saved  # type: ignore[index]
    inputs = N_LAYERS * (WIDTH + 2 * WIDTH)
    assert plain["states_per_prompt"] == 4 * (N_LAYERS + 1) * WIDTH + 4 * 17 * inputs  # type: ignore[index]
    assert plain["bake"] == 16 * WIDTH * 2 * WIDTH  # type: ignore[index]
    assert plain["weights"] < plain["map"] < plain["search"]  # type: ignore[index]


def test_packed_checkpoints_are_named(tmp_path: Path) -> None:
    folder, _ = save_mxfp4(tmp_path / "gpt-oss")
    try:
        assert inspect(folder)["checkpoint"]["quantization"] == "mxfp4"  # type: ignore[index]
    except ArchitectureError as error:  # until the class is described
        assert "GptOssForCausalLM is not described" in str(error)
    model = tiny_model("llama")
    model.resize_token_embeddings(VOCAB_SIZE + 1, mean_resizing=False)
    file = write_gguf(model, tiny_tokenizer(), tmp_path / "tiny.gguf")
    found = inspect(file, cache=tmp_path / "cache")
    assert found["family"] == "llama" and found["parameters"] == model.num_parameters()
    assert not (tmp_path / "cache").exists()  # nothing was unpacked for this


def test_a_class_that_is_not_described_points_to_the_proposal(tmp_path: Path) -> None:
    from transformers import GPTNeoXConfig

    GPTNeoXConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ArchitectureError, match=r"GPTNeoXForCausalLM is not described.*inspect --propose"):
        inspect(tmp_path)


def test_the_first_line_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    folder = save_tiny("qwen2", tmp_path / "model")
    code = (
        "import sys\nfrom sombrero import verbs\nfrom sombrero.config import ModelConfig\n"
        "from sombrero.progress import Silent\n"
        "class Stop(Exception): pass\n"
        "class First(Silent):\n"
        "    def say(self, text):\n"
        "        print(text, 'torch' in sys.modules); raise Stop\n"
        "try: verbs.inspect(ModelConfig(source=sys.argv[1]), progress=First())\n"
        "except Stop: pass\n"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "Qwen2ForCausalLM, family qwen2, 4 layers of width 32 False"


def test_layers_are_written_as_ranges() -> None:
    assert ranges([0, 2, 3, 4, 7]) == "0, 2-4, 7" and ranges([5]) == "5" and ranges([]) == ""


def test_json_is_all_that_standard_output_holds(sombrero: Command, tmp_path: Path) -> None:
    folder = save_tiny("mistral", tmp_path / "model")
    outcome = sombrero("inspect", folder, "--device", "cpu", "--json")
    assert json.loads(outcome.out) == json.loads(json.dumps(inspect(folder)))
    assert outcome.err.startswith("MistralForCausalLM, family mistral, 4 layers of width 32")
    shown = sombrero("inspect", folder, "--device", "cpu").out
    assert "layers 0-3: 1 attention, 1 mlp" in shown and "GiB" in shown
