from pathlib import Path

import pytest

from sombrero.config import RunConfig, load_config
from sombrero.errors import UsageError


def test_toml_and_overrides_make_the_same_configuration(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 3\n[search]\ntrials = 7\nrules = ["project"]\n[map]\nn_rows = 2\n', encoding="utf-8")
    by_flags = load_config(None, {"": {"seed": 3}, "search": {"trials": 7, "rules": ["project"]}, "map": {"n_rows": 2}})
    assert load_config(path) == by_flags
    assert load_config(path, {"search": {"trials": 9}}).search.trials == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search]\ntrails = 7\n", r"search\.trails.*not permitted.*found 7"),
        ("[search]\ntrials = 0\n", r"search\.trials.*found 0"),
        ("[model\n", "not valid TOML"),
        ('[evaluation]\ndetector = "substring"\n', "needs markers"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_config(path)


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the configuration"):
        load_config(tmp_path / "none.toml")


def test_the_configuration_survives_json() -> None:
    config = RunConfig()
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
