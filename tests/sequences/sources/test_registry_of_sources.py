"""Sources from outside are named like those that come with the project, and meet no list of known ones."""

import numpy as np
import pytest

from metarlgym import ConfigError
from metarlgym.sequences.data.tables import Export
from metarlgym.sequences.predictors import exact_predictor
from metarlgym.sequences.predictors.kt import KT
from metarlgym.sequences.scoring.expected_loss import HeldOutLoss
from metarlgym.sequences.scoring.report import yardstick_losses
from metarlgym.sequences.sources import Source, find_source, register_source


class Coins(Source):
    """Independent fair coins."""

    exact = f"{__name__}:fair"
    optional_columns = ("theta",)
    vocab_size = 2

    def __init__(self, T: int = 8, seed=None):
        super().__init__(seed)
        self.length = T

    def tokens(self, start, count, split="train"):
        return np.random.default_rng(self.seed).integers(0, 2, (start + count, self.length))[start:]

    def columns(self, start, count, split="train", optional=False):
        found = {"tokens": self.tokens(start, count, split)}
        return found | {"theta": np.full((count, self.length, 2), 0.5)} if optional else found


def fair(source, *_):
    return KT(2, 1e9)  # so sure of 1/2 that nothing moves it


register_source("coins", Coins)


def test_it_is_found_written_and_scored():
    assert find_source(f"{__name__}:coins", exact=True) is Coins
    export = Export("coins", 5, {"T": 6})
    assert export.schema.names == ["index", "tokens"] and export.table(0, 5).num_rows == 5
    source = Coins(seed=0)
    assert exact_predictor(source).log_loss(source.tokens(0, 3)) == pytest.approx(np.log(2))
    assert set(HeldOutLoss(source, 4).exact) == {"floor"}
    assert set(yardstick_losses(source, 0, 4, False)) == {"floor", "n-gram", "LZ"}


def test_names_that_cannot_be_had():
    with pytest.raises(ConfigError, match="source='dice' is not known: use one of metalm, rlm, piecewise"):
        find_source("dice")
    with pytest.raises(ConfigError, match="'coins' is registered already"):
        register_source("coins", Source)
    with pytest.raises(ConfigError, match="module 'no_such' cannot be imported"):
        find_source("no_such:coins")
    with pytest.raises(ConfigError, match="source='pseudo' is not known"):
        find_source("pseudo", exact=True)
