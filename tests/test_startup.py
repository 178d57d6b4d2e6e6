"""What is not imported before it is needed: libraries whose import takes seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment

HEAVY = ("torch", "transformers", "optuna", "sklearn", "scipy", "datasets", "plotly", "matplotlib", "pyarrow", "numpy")


WATCH = f"""
import atexit, sys
found = lambda: sorted({{name.split(".")[0] for name in sys.modules}} & set({HEAVY}))
"""


def last_line(program: str, *arguments: object) -> str:
    """What a new interpreter prints last."""
    command = [sys.executable, "-c", WATCH + program, *map(str, arguments)]
    found = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()[-1].strip()


@pytest.mark.parametrize(
    "begin",
    [
        "import sombrero",
        "import sys; sys.argv = ['sombrero', '--help']; from sombrero.cli import main; main()",
        "import sys; sys.argv = ['sombrero', 'run', '--help']; from sombrero.cli import main; main()",
    ],
)
def test_no_heavy_library_is_imported(begin: str) -> None:
    assert last_line(f'atexit.register(lambda: print("imported:", *found()))\n{begin}') == "imported:"


def test_a_run_says_what_it_does_before_any_is(tmp_path: Path) -> None:
    program = """
from pathlib import Path
from sombrero import verbs
from sombrero.config import RunConfig
from sombrero.progress import Silent
class First(Silent):
    def say(self, text):
        print(text, "imported:", *found())
        raise SystemExit
verbs.run(RunConfig(), Path(sys.argv[1]), progress=First())
"""
    line = last_line(program, tmp_path / "run")
    assert str(tmp_path / "run") in line and line.endswith("imported:")
