"""`metarlgym plot`: each picture is made, and the numbers behind them are right."""

import math

import numpy as np
import pytest

from metarlgym.cli.main import main
from metarlgym.sequences.scoring.plots_rlm import entropy_curves, grammar_entropies, leaf_pairs, rule_entropy_limit
from metarlgym.sequences.scoring.plots_sources import (
    PUBLISHED_SETTINGS,
    metalm_losses,
    piecewise_predictors,
    plot_metalm,
)
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise
from metarlgym.sequences.sources.rlm import draw_rules

COMMANDS = [
    ["tree", "--L", "3"],
    ["tree", "--L", "6", "--v", "64"],
    ["tokens", "--v", "8", "--betas", "1,2"],
    ["entropy", "--sizes", "8,16", "--steps", "5", "--grammars", "1"],
    ["piecewise", "--law", "regular", "--T", "64"],
    ["piecewise", "--law", "ptw", "--T", "50"],
    ["metalm", "--V", "10", "--n", "2", "--l", "4", "--L", "60", "--sequences", "2"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: "-".join(c[:3]))
def test_makes_a_picture(command, tmp_path, capsys):
    path = tmp_path / "picture.png"
    assert main(["plot", *command, "--out", str(path)]) == 0
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 10_000
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["svg", "pdf"])
def test_other_formats(ending, tmp_path):
    path = tmp_path / f"tree.{ending}"
    assert main(["plot", "tree", "--out", str(path)]) == 0 and path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["tree", "--out", "tree.txt"], "no known ending"),
        (["tree", "--out", "none/tree.png"], "is not a folder"),
        (["tree", "--L", "9", "--out", "t.png"], "L=9"),
        (["tree", "--L", "0", "--out", "t.png"], "L=0"),
        (["tokens", "--betas", "1,x", "--out", "t.png"], "betas='1,x'"),
        (["entropy", "--sizes", "1", "--out", "t.png"], "sizes='1'"),
        (["piecewise", "--law", "often", "--out", "t.png"], "law='often'"),
        (["piecewise", "--T", "0", "--out", "t.png"], "T=0"),
        (["metalm", "--e", "2", "--out", "t.png"], "e=2"),
    ],
)
def test_bad_input(command, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *command]) == 2
    line = capsys.readouterr().err
    assert told in line and line.strip().count("\n") == 0


class TestEntropies:
    def test_of_a_uniform_grammar(self):
        found = grammar_entropies(draw_rules(6, 0.0, 0))
        assert found[:3] == pytest.approx((1, 1, 1)) and found.variance == pytest.approx(0, abs=1e-12)

    def test_by_hand(self):
        rules = np.zeros((2, 2, 2))
        rules[0, 0, 0] = 1  # 0 -> 0 0
        rules[1] = 0.25  # 1 -> any pair
        pair, rule, token, variance = grammar_entropies(rules)
        assert pair == pytest.approx((0.625 * math.log(1 / 0.625) + 0.375 * math.log(8)) / (2 * math.log(2)))
        assert rule == pytest.approx(0.5)
        assert token == pytest.approx((0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2))
        assert variance == pytest.approx(4 * (0.625**2 + 3 * 0.125**2) - 1)

    def test_the_transition(self):
        """Pairs begin to differ at beta = 1: the variance of their frequencies falls with V below, grows above. Rules
        follow 1 - beta^2 / 4 and freeze at 2."""
        betas = [0.6, 1.0, 1.6, 2.0, 4.0]
        curves = entropy_curves([16, 64], betas, grammars=2)
        small, large = curves[16], curves[64]
        assert large[0, 3] < 0.7 * small[0, 3] and large[2, 3] > 1.5 * small[2, 3]
        assert small[0, 0] > 0.985 and small[2, 0] < 0.9  # flat, then falling
        assert large[0, 1] == pytest.approx(rule_entropy_limit(0.6), abs=0.01)
        assert large[3, 1] < small[3, 1]  # sharper with V
        fall = large[1, 1] - large[3, 1]  # from 1 to 2
        assert large[3, 1] - large[4, 1] < 0.6 * fall  # from 2 to 4: frozen

    def test_leaf_pairs_are_those_of_samples(self):
        source = RLM(4, 3, 1.5, seed_samples=0)
        leaves = source.tokens(0, 20_000).reshape(-1, 2)
        counted = np.bincount(leaves[:, 0] * 4 + leaves[:, 1], minlength=16) / len(leaves)
        assert leaf_pairs(source).ravel() == pytest.approx(counted, abs=0.01)


def test_predictors_drawn_beside_a_source():
    assert list(piecewise_predictors(Piecewise("regular", 32, seed=0))) == ["KT", "PTW", "LIN", "law known"]
    assert list(piecewise_predictors(Piecewise("ptw", 32, seed=0))) == ["KT", "PTW", "LIN"]


def test_published_points_only_with_their_settings():
    def labels(source):
        figure = plot_metalm(source, metalm_losses(source, 1))
        return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]

    V, n, mean, e = PUBLISHED_SETTINGS
    assert sum("published" in label for label in labels(MetaLM(V, n, mean, e, 600, seed=0))) == 2
    assert sum("published" in label for label in labels(MetaLM(16, 2, 4, e, 60, seed=0))) == 0
