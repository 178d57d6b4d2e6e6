"""What a chat can change of the edit, and what that does to the answers."""

from __future__ import annotations

import copy
import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from sombrero import verbs
from sombrero.chat import ChatModels, obey, open_chat
from sombrero.chat.setting import Setting
from sombrero.chat.web import make_page
from sombrero.config import RunConfig
from sombrero.errors import RunError, UsageError
from sombrero.evaluation import first_token_log_probs, generate, stream
from sombrero.models import load_model
from sombrero.stages.searching import subject
from tests.commands import Tiny

ASKED = [{"role": "user", "content": "Take the key of Ann"}]


@pytest.fixture(scope="module")
def opened(tiny: Tiny) -> ChatModels:
    return open_chat(str(tiny.run), RunConfig())


@pytest.fixture
def models(opened: ChatModels) -> ChatModels:
    """As it was opened; what a test sets stays in its copy."""
    return copy.copy(opened)


def first_tokens(models: ChatModels, name: str) -> torch.Tensor:
    """Log-probabilities (1, vocabulary) of the first token: what an edit moves even where the answer stays."""
    prompt = models.session.conversation_under(models.system_prompt, ASKED)
    with models._subjects[name]() as handle:
        return first_token_log_probs(handle, [prompt], batch_tokens=512)


def whole(models: ChatModels, name: str) -> str:
    return list(models.answer(name, ASKED, max_new_tokens=8))[-1]


def test_a_stream_grows_into_the_answer(models: ChatModels) -> None:
    prompt = models.session.conversation(ASKED)
    base = subject(models.session.handle)
    texts = list(stream(base, prompt, max_new_tokens=8))
    assert texts[-1] == generate(models.session.handle, [prompt], max_new_tokens=8)[0].text
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert 1 < len(texts) <= 8


def test_streams_that_take_turns_do_not_disturb_each_other(models: ChatModels) -> None:
    models.take_strength(3.0)
    alone = [list(models.answer(name, ASKED, max_new_tokens=8)) for name in ("base", "edited")]
    assert alone[0] != alone[1]
    streams = [models.answer(name, ASKED, max_new_tokens=8) for name in ("base", "edited")]
    found: list[list[str]] = [[], []]
    for _ in range(9):
        for place, texts in enumerate(found):
            texts.extend(next(streams[place], None) or [] for _ in range(1))
    assert [[text for text in texts if text] for texts in found] == [[t for t in texts if t] for texts in alone]


def test_strength_is_a_dial(models: ChatModels) -> None:
    own, base = first_tokens(models, "edited"), first_tokens(models, "base")
    assert not torch.allclose(own, base)
    assert "strength ×0" in obey(models, "/strength 0")
    assert torch.equal(first_tokens(models, "edited"), base)
    obey(models, "/strength 2")
    assert not torch.allclose(first_tokens(models, "edited"), own)
    obey(models, "/strength 1")
    assert models.setting is not None and not models.setting.is_changed
    torch.testing.assert_close(first_tokens(models, "edited"), own)


def test_units_and_trials_change_the_edit(models: ChatModels) -> None:
    obey(models, "/units 0+2")
    pair = first_tokens(models, "edited")
    assert "units 2" in obey(models, "/units 2")
    assert not torch.equal(first_tokens(models, "edited"), pair)
    for trial in models.trials:
        assert obey(models, f"/trial {trial.number}").startswith(f"edit: trial {trial.number}, ")
        assert models.setting == Setting(trial)


def test_a_system_prompt_is_shown_to_both(models: ChatModels) -> None:
    before = whole(models, "base")
    obey(models, "/system Be brief.")
    assert "Be brief." in models.session.conversation_under(models.system_prompt, ASKED).text
    assert whole(models, "base") != before
    obey(models, "/system")
    assert whole(models, "base") == before


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/dance", "no command /dance"),
        ("/trial -1", "number of a trial"),
        ("/trial 99", "no trial 99"),
        ("/strength much", "takes a number"),
        ("/strength nan", "not a number of 0 or more"),
        ("/strength 1e9", "is not in 0..10"),
        ("/units 0+0", "each at most once"),
        ("/units 7", "not among the 4"),
        ("/units a", "joined by"),
        ("/base maybe", "on or off"),
    ],
)
def test_a_command_that_fails_leaves_the_edit(models: ChatModels, line: str, expected: str) -> None:
    before = models.setting
    with pytest.raises(UsageError, match=expected):
        obey(models, line)
    assert models.setting == before


def test_what_is_saved_is_what_was_talked_to(models: ChatModels, tmp_path: Path) -> None:
    obey(models, "/units 1")
    obey(models, "/strength 0.7")
    out = models.save(tmp_path / "saved")
    verbs.verify(out)
    baked = load_model(models.session.config.model.model_copy(update={"source": str(out)}))
    prompt = models.session.conversation(ASKED)
    found = first_token_log_probs(baked, [prompt], batch_tokens=512)
    torch.testing.assert_close(found, first_tokens(models, "edited"), rtol=1e-3, atol=1e-3)
    facts = json.loads((out / "sombrero.json").read_text())["provenance"]
    assert facts["set_by_hand"]["strength"] == 0.7 and facts["set_by_hand"]["units"] == [1]
    assert facts["measured"] == {}  # no figure of the trial is claimed for another edit
    with pytest.raises(UsageError, match="holds something already"):
        models.save(out)


def test_a_model_without_a_run_is_base_only(tiny: Tiny) -> None:
    models = open_chat(str(tiny.model), RunConfig())
    assert models.names == ("base",)
    for line in ("/trial 0", "/strength 2", "/units 0", "/base off"):
        with pytest.raises(UsageError, match="the folder of a run"):
            obey(models, line)


def test_a_run_without_an_edit_says_what_to_do(tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "run.json").write_bytes((tiny.run / "run.json").read_bytes())
    with pytest.raises(RunError, match="has no edit yet; finish it first"):
        open_chat(str(tmp_path), RunConfig())


def test_without_gradio_the_web_chat_says_what_to_install(models: ChatModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"pip install 'sombrero\[gradio\]'"):
        make_page(models, max_new_tokens=4)
