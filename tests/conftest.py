"""For every test: no network, no telemetry, cheap garbage collection, one thread for torch.

The models are so small that two threads are slower.
"""

import gc
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
        libraries.freeze()


class Libraries:
    """Keeps the half million objects of torch and transformers out of collections, which take 0.3 s with them.

    The end of a training run thaws them. What is garbage then is frozen too, until the next run ends; so every 20th
    time it is collected first.
    """

    def __init__(self):
        self.frozen, self.times, self.unfreeze = False, 0, gc.unfreeze
        gc.unfreeze = self.thaw  # `gc.get_freeze_count` takes 0.05 s

    def freeze(self):
        if not self.frozen:
            if self.times % 20 == 0:
                gc.collect()
            gc.freeze()
            self.frozen, self.times = True, self.times + 1

    def thaw(self):
        self.frozen = False
        self.unfreeze()


libraries = Libraries()


def pytest_xdist_auto_num_workers(config):
    """The whole unit suite runs on all cores, in one process more, since some tests wait; single files, and the
    end-to-end suites, in one process."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    unit = not config.getoption("markexpr") or "not e2e" in config.getoption("markexpr")
    return (os.cpu_count() or 1) + 1 if whole and unit else 0
