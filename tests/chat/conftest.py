"""A finished run of a tiny model, to chat with."""

import pytest

from tests.commands import Tiny, finished_run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return finished_run(tmp_path_factory.mktemp("chat"))
