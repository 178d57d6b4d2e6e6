"""Ctrl-C waits for a database, once."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy.engine.default as dialect

from sombrero.search import open_study
from sombrero.search.interrupts import interrupts_wait


def test_what_runs_ends_before_the_interrupt_takes_effect() -> None:
    ended = False
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts_wait(), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
        ended = True
    assert ended
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")


def test_a_process_that_ignores_interrupts_goes_on_ignoring_them() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_wait():
            signal.raise_signal(signal.SIGINT)
    finally:
        assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_other_threads_need_not_wait() -> None:
    def handler_inside() -> object:
        with interrupts_wait():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handler_inside).result() is signal.getsignal(signal.SIGINT)


def test_a_study_is_made_whole_although_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Interrupted in the first call of the database, all that belongs to opening the study is in it."""
    execute = dialect.DefaultDialect.do_execute
    raised = 0

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal raised
        if not raised:
            raised += 1
            signal.raise_signal(signal.SIGINT)
        return execute(*arguments, **options)  # type: ignore[arg-type]

    storage = f"sqlite:///{tmp_path / 'study.db'}"
    monkeypatch.setattr(dialect.DefaultDialect, "do_execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_study(storage, "this")
    assert raised == 1
    assert "this" in optuna.load_study(study_name="sombrero", storage=storage).user_attrs.values()
    assert capfd.readouterr().err == ""
