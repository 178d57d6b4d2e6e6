"""The order of the tests: with several workers, what takes longest must not begin last. And a word on skipped ones."""

import pytest

LONG = ("test_embedded_run.py", "test_pipeline.py", "test_cli.py", "test_comparison.py", "test_pictures.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tests that need a browser are skipped where there is none; a reader of the last lines must not miss it."""
    skipped = [report for report in terminalreporter.getreports("skipped") if "tests/browser/" in report.nodeid]
    if skipped:
        reasons = {str(report.longrepr[-1]) for report in skipped if isinstance(report.longrepr, tuple)}
        terminalreporter.section("THE REPORT WAS NOT TRIED IN A BROWSER", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests of tests/browser were skipped. {' '.join(sorted(reasons))}")
