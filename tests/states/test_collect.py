from pathlib import Path

import pytest
import torch

from sombrero.errors import NumericalError, RunError
from sombrero.records import HiddenStates
from sombrero.states import collect_states, load_states, save_states, shard_path
from tests.planned import Planned, plan
from tests.tiny_models import FAMILIES


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Planned:
    return plan("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_library(family: str, tmp_path: Path) -> None:
    """Against ``output_hidden_states``, prompt by prompt; its last entry is normed, so ours is normed too."""
    planned = plan(family, tmp_path)
    model = planned.handle.model
    states = collect_states(planned.handle, planned.architecture, planned.writers, planned.harmful_prompts)
    for row, prompt in enumerate(planned.harmful_prompts):
        with torch.inference_mode():
            expected = model(input_ids=torch.tensor([prompt.token_ids]), output_hidden_states=True).hidden_states
            normed = model.model.norm(states.hidden[row, -1])
        found = torch.cat([states.hidden[row, :-1], normed[None]])
        assert (found - torch.stack([h[0, -1] for h in expected])).abs().max() < 1e-4


def test_writer_inputs_explain_the_last_token(planned: Planned) -> None:
    """W x of both writers of a layer is what the layer added."""
    model, states = planned.handle.model, planned.harmful
    for layer in range(4):
        added = sum(
            states.writer_inputs[w.name][:, -1] @ model.get_submodule(w.module_path).weight.T
            for w in planned.writers
            if w.layer == layer
        )
        assert torch.allclose(added, states.hidden[:, layer + 1] - states.hidden[:, layer], atol=1e-4)


def test_batching_changes_nothing(planned: Planned) -> None:
    one_by_one = collect_states(
        planned.handle, planned.architecture, planned.writers, planned.harmful_prompts, batch_tokens=1
    )
    assert torch.allclose(one_by_one.hidden, planned.harmful.hidden, atol=1e-4)
    assert one_by_one.prompt_ids == planned.harmful.prompt_ids


def test_openings_add_keys_and_leave_the_hidden_states(planned: Planned) -> None:
    """Hidden states stay those of the prompt's last token; the keys' last ones explain the longer row's end."""
    openings = [(65 + i % 3, 70) for i in range(len(planned.harmful_prompts))]
    longer = collect_states(
        planned.handle,
        planned.architecture,
        planned.writers,
        planned.harmful_prompts,
        key_positions=2,
        openings=openings,
    )
    assert torch.allclose(longer.hidden, planned.harmful.hidden, atol=1e-4)
    for name, inputs in longer.writer_inputs.items():
        assert inputs.shape[1] == 4
        assert torch.allclose(inputs[:, :2], planned.harmful.writer_inputs[name], atol=1e-4)


def test_a_state_that_is_not_finite_names_layer_and_prompt(tmp_path: Path) -> None:
    planned = plan("llama", tmp_path)
    with torch.no_grad():
        planned.handle.model.get_submodule("model.layers.2.mlp.down_proj").weight[0, 0] = float("nan")
    with pytest.raises(NumericalError, match=r"layer 2, prompt 'h-0'"):
        collect_states(planned.handle, planned.architecture, planned.writers, planned.harmful_prompts)


def test_winsorizing_clips_each_state_at_its_quantile(planned: Planned) -> None:
    clipped = collect_states(
        planned.handle, planned.architecture, planned.writers, planned.harmful_prompts, winsorize=0.9
    ).hidden
    limit = torch.quantile(planned.harmful.hidden.abs(), 0.9, dim=-1)
    assert torch.allclose(clipped.abs().amax(-1), limit, atol=1e-5)


def test_states_survive_the_disk(planned: Planned, tmp_path: Path) -> None:
    def part(rows: slice) -> HiddenStates:
        s = planned.harmful
        return HiddenStates(s.prompt_ids[rows], s.hidden[rows], {k: v[rows] for k, v in s.writer_inputs.items()})

    save_states(part(slice(0, 5)), shard_path(tmp_path, "harmful", 0))
    save_states(part(slice(5, None)), shard_path(tmp_path, "harmful", 1))
    loaded = load_states(tmp_path, "harmful")
    assert loaded.prompt_ids == planned.harmful.prompt_ids
    assert torch.equal(loaded.hidden, planned.harmful.hidden)
    assert all(torch.equal(loaded.writer_inputs[k], v) for k, v in planned.harmful.writer_inputs.items())


def test_missing_and_damaged_shards_are_errors(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="missing or incomplete"):
        load_states(tmp_path, "harmful")
    save_states(planned.harmful, shard_path(tmp_path, "harmful", 1))
    with pytest.raises(RunError, match="missing or incomplete"):
        load_states(tmp_path, "harmful")
    shard_path(tmp_path, "harmful", 0).write_bytes(b"not a tensor file")
    with pytest.raises(RunError, match="cannot be read"):
        load_states(tmp_path, "harmful")
