"""The order of the tests: with several workers, what takes longest must not begin last."""

import pytest

LONG = ("test_embedded_run.py", "test_pipeline.py", "test_cli.py", "test_comparison.py", "test_pictures.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
