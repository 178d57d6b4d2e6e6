"""The generic fallback: entries that are traced, proved by accounting, and say what they leave open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sombrero import verbs
from sombrero.architectures import load_architectures
from sombrero.architectures.proposal import propose_entry
from sombrero.architectures.tracing import trace_writers, unexplained
from sombrero.config import ModelConfig, RunConfig
from sombrero.edits import account_residuals
from sombrero.errors import ArchitectureError, CoverageError
from sombrero.records import Prompt, RenderedPrompt
from sombrero.session import Session
from tests.commands import Command
from tests.tiny_models import save_tiny, tiny_model, tiny_tokenizer

IDS = torch.arange(12)[None] + 3


@pytest.fixture
def sombrero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


def propose(name: str, folder: Path, **settings: object) -> dict[str, Any]:
    getattr(transformers, f"{name}Config")(**settings).save_pretrained(folder)
    return verbs.inspect(ModelConfig(source=str(folder)), propose=True)


def writers_of(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(w["kind"], w["module"], w["layout"]) for w in found["entry"]["writers"]}


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "SmolLM3"])
def test_described_classes_are_proposed_as_they_are_described(name: str, tmp_path: Path) -> None:
    found = propose(name, tmp_path)
    entry = next(entry for entry in load_architectures() if found["class"] in entry.classes)
    assert found["complete"] and found["accounting"] < 1e-4
    assert writers_of(found) == {(w.kind, w.module, w.layout) for w in entry.writers}
    proposed = {w["module"]: w["weight"] for w in found["entry"]["writers"]}
    assert proposed == {w.module: w.weight for w in entry.writers} or "{base}" in entry.layers
    assert found["traced_on"]["parameters"] < 1e6


@pytest.mark.parametrize(
    ("name", "writers"),
    [
        ("GPT2", {("attention", "attn.c_proj", "conv1d"), ("mlp", "mlp.c_proj", "conv1d")}),
        ("OPT", {("attention", "self_attn.out_proj", "linear"), ("mlp", "fc2", "linear")}),
        ("Phi", {("attention", "self_attn.dense", "linear"), ("mlp", "mlp.fc2", "linear")}),  # parallel branches
        ("StableLm", {("attention", "self_attn.o_proj", "linear"), ("mlp", "mlp.down_proj", "linear")}),
        ("Starcoder2", {("attention", "self_attn.o_proj", "linear"), ("mlp", "mlp.c_proj", "linear")}),
        ("GPTNeoX", {("attention", "attention.dense", "linear"), ("mlp", "mlp.dense_4h_to_h", "linear")}),
        ("Mamba", {("attention", "mixer.out_proj", "linear")}),
    ],
)
def test_the_proposal_of_an_unknown_class_accounts_for_all(
    name: str, writers: set[tuple[str, str, str]], tmp_path: Path
) -> None:
    found = propose(name, tmp_path)
    assert writers_of(found) == writers
    assert found["complete"] and found["accounting"] < 1e-4
    assert found["notes"] == [found["notes"][-1]] and "check them" in found["notes"][-1]


def traced(name: str, **settings: object) -> tuple[dict[str, Any], list[str]]:
    """The entry alone, of a class whose entry needs more of the schema than a list of matrices."""
    from sombrero.models.miniature import load_miniature, miniature_ids
    from sombrero.stages.proposing import _stored

    model = load_miniature(ModelConfig(source=str(settings.pop("folder"))))
    return propose_entry(model, trace_writers(model, miniature_ids(model)), _stored(model))


def test_what_stands_between_a_matrix_and_the_stream_is_found(tmp_path: Path) -> None:
    transformers.Gemma2Config().save_pretrained(tmp_path / "gemma2")
    entry, notes = traced("Gemma2", folder=tmp_path / "gemma2")
    assert not notes
    assert {w["module"]: w["post_norms"] for w in entry["writers"]} == {
        "self_attn.o_proj": [{"module": "post_attention_layernorm", "offset": 1.0}],
        "mlp.down_proj": [{"module": "post_feedforward_layernorm", "offset": 1.0}],
    }
    transformers.Olmo2Config().save_pretrained(tmp_path / "olmo2")
    entry, notes = traced("Olmo2", folder=tmp_path / "olmo2")
    assert not notes and {norm["module"] for w in entry["writers"] for norm in w["post_norms"]} == {
        "post_attention_layernorm",
        "post_feedforward_layernorm",
    }
    transformers.GraniteConfig(residual_multiplier=0.22, attention_multiplier=0.1).save_pretrained(tmp_path / "granite")
    entry, notes = traced("Granite", folder=tmp_path / "granite")
    assert not notes and {w["scale"] for w in entry["writers"]} == {"residual_multiplier"}


def test_experts_their_router_and_gates_are_found(tmp_path: Path) -> None:
    transformers.Qwen2MoeConfig().save_pretrained(tmp_path)
    entry, notes = traced("Qwen2Moe", folder=tmp_path)
    assert not notes
    attention, experts, shared = entry["writers"]
    assert attention["module"] == "self_attn.o_proj"
    assert (experts["layout"], experts["parameter"], experts["router"]) == ("experts_out_in", "down_proj", "mlp.gate")
    assert experts["weight"] == "model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
    assert shared["gate"] == "mlp.shared_expert_gate" and shared["name"] != experts["name"]


def test_experts_of_one_tensor_with_biases_are_found(tmp_path: Path) -> None:
    transformers.GptOssConfig().save_pretrained(tmp_path)
    entry, notes = traced("GptOss", folder=tmp_path)
    experts = next(w for w in entry["writers"] if w["kind"] == "mlp")
    assert not notes
    assert (experts["layout"], experts["bias_parameter"]) == ("experts_in_out", "down_proj_bias")
    assert experts["weight"] == "model.layers.{layer}.mlp.experts.down_proj" and experts["router"] == "mlp.router"


def test_layers_that_differ_say_which_have_a_writer(tmp_path: Path) -> None:
    transformers.Lfm2Config(
        num_hidden_layers=6, layer_types=["conv", "conv", "full_attention", "conv", "full_attention", "conv"]
    ).save_pretrained(tmp_path)
    entry, notes = traced("Lfm2", folder=tmp_path)
    assert not notes
    where = {w["module"]: w.get("where") for w in entry["writers"]}
    assert where["feed_forward.w2"] is None
    assert where["conv.out_proj"] == [{"module": "conv.out_proj"}]
    assert where["self_attn.out_proj"] == [{"module": "self_attn.out_proj"}]
    kinds = {w["module"]: w["kind"] for w in entry["writers"]}
    assert kinds.pop("feed_forward.w2") == "mlp" and set(kinds.values()) == {"attention"}


# What cannot be explained


class _Hidden(nn.Module):
    """A layer's MLP that adds to the stream what no module gives out."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.inner = mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.inner(x)
        return y * (1 + 0.5 * x.tanh())


def test_what_no_module_writes_is_said_and_not_guessed() -> None:
    model = tiny_model("llama")
    for layer in model.model.layers[:2]:
        layer.mlp = _Hidden(layer.mlp)
    trace = trace_writers(model, IDS)
    assert unexplained(trace) == [sentence for sentence in unexplained(trace) if sentence.startswith("layers 0, 1: ")]
    assert "what mlp writes" in unexplained(trace)[0]
    entry, notes = propose_entry(model, trace, dict(model.state_dict()))
    assert notes[: len(unexplained(trace))] == unexplained(trace)
    assert {w["module"] for w in entry["writers"]} == {"self_attn.o_proj", "mlp.down_proj"}


def test_a_class_without_layers_is_an_error() -> None:
    model = tiny_model("llama")
    model.model.layers = nn.Sequential(*model.model.layers)
    with pytest.raises(ArchitectureError, match="no list of layers that pass one stream of width 32 on"):
        trace_writers(model, IDS)


# The user's own entry


def test_an_entry_of_ones_own_is_used_where_it_is_named(sombrero: Command, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    transformers.StableLmConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, eos_token_id=258,
    ).save_pretrained(folder)  # fmt: skip
    outcome = sombrero("inspect", folder, "--propose")
    assert "complete; residual accounting on 2 random layers" in outcome.err
    file = tmp_path / "stablelm.json"
    file.write_text(outcome.out, encoding="utf-8")
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).save_pretrained(
        folder
    )
    tiny_tokenizer().save_pretrained(folder)
    session = Session(RunConfig(model=ModelConfig(source=str(folder), device="cpu", architecture_file=file)))
    assert len(session.writers) == 4
    probe = [RenderedPrompt(Prompt("a", "a"), "a", (5, 6, 7, 8))]
    account_residuals(session.handle, session.architecture, session.writers, probe)
    assert verbs.inspect(session.config.model)["writers"] == {"attention": 2, "mlp": 2}
    entry = json.loads(outcome.out)
    entry["writers"] = entry["writers"][:1]
    file.write_text(json.dumps(entry), encoding="utf-8")
    session = Session(session.config)
    with pytest.raises(CoverageError, match="do not account for"):
        account_residuals(session.handle, session.architecture, session.writers, probe)


def test_an_entry_for_another_class_is_an_error(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "model")
    for content, message in (
        (None, "is not there, or is no .json file"),
        ("{}", "does not fit the schema"),
        (
            next(e for e in load_architectures() if e.family == "qwen2").model_dump_json(),
            "does not serve the class Llama",
        ),
    ):
        file = tmp_path / "own.json"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(ArchitectureError, match=message):
            verbs.inspect(ModelConfig(source=str(folder), architecture_file=file))
