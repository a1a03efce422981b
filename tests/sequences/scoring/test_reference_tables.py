"""The tables of known numbers, at sizes that take seconds; the whole tables are one command."""

import json

import pytest

from metarlgym.cli.main import main
from metarlgym.sequences.scoring.reference_tables import Row, metalm_rows, piecewise_rows, rlm_rows


def test_piecewise_table():
    rows = list(piecewise_rows(sequences=600, seed=1))
    assert len(rows) == 30
    assert [row for row in rows if not row.agrees] == []
    exact = {row.name: row.value for row in rows}
    for law, predictor in (("ptw", "PTW_8"), ("lin", "LIN"), ("static", "KT")):
        rivals = [exact[law, other] for other in ("PTW_8", "LIN", "KT", "KT of the last 20")]
        assert exact[law, predictor] == min(rivals)


def test_rlm_table():
    rows = list(rlm_rows(grammars=6, sequences=40))
    assert len(rows) == 44
    # Few grammars vary too much for the bounds of the whole table; the code is tested tightly beside the predictor.
    assert max(abs(row.value - row.reference) for row in rows) < 0.3
    last = [row.value for row in rows if row.name[:2] == ("V=32", "beta=2.0") and row.name[3] == "last token"]
    assert len(last) == 4 and last == sorted(last, reverse=True) and last[0] - last[-1] > 0.6


def test_metalm_table():
    assert all(row.agrees for row in metalm_rows(sequences=150))


def test_a_wrong_figure_is_told():
    assert not Row(("x",), 8.6, 0.1, 8.15, 0.4).agrees


def test_command(tmp_path, capsys):
    path = tmp_path / "table.json"
    assert main(["yardsticks", "metalm", "-n", "100", "--json", str(path)]) == 0
    assert "4 of 4 figures agree" in capsys.readouterr().out
    assert json.loads(path.read_text())[0]["reference"] == pytest.approx(0.043)
