"""For every test: no network, no telemetry, one thread for torch (the models are so small that two are slower)."""

import os
import sys

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
