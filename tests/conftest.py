"""For every test: no network, no telemetry, one thread for torch (the models are so small that two are slower)."""

import os
import sys

import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    TRL_EXPERIMENTAL_SILENCE="1",
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
)


def pytest_runtest_setup(item):
    torch = sys.modules.get("torch")  # not imported here: most tests of the gym do without
    if torch is not None:
        torch.set_num_threads(1)


def pytest_xdist_auto_num_workers(config):
    """The whole unit suite runs on all cores; single files, and the end-to-end suites, in one process."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    unit = not config.getoption("markexpr") or "not e2e" in config.getoption("markexpr")
    return os.cpu_count() if whole and unit else 0
