"""Settings of a run that is resumed."""

import pytest

from metarlgym import ConfigError
from metarlgym.runtime.resume_check import check_same, held_settings


def test_a_run_without_its_settings_is_not_resumed(tmp_path):
    for read in (held_settings, lambda folder: check_same(folder, {"seed": 5}, ())):
        with pytest.raises(
            ConfigError,
            match=r"holds neither settings.json nor config.yaml: the settings of the run to resume are unknown",
        ):
            read(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 4\n")
    with pytest.raises(ConfigError, match="seed=5 was 4"):
        check_same(tmp_path, {"seed": 5}, ())
