"""The reading mode: losses by symbol, against sums by hand; the report and the command."""

import json

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from metarlgym import ConfigError
from metarlgym.cli.main import main
from metarlgym.models.scratch import word_tokenizer
from metarlgym.sequences.scoring import log_loss as reading
from metarlgym.sequences.scoring.log_loss import SymbolCodec, describe_server, read_in_process
from metarlgym.sequences.scoring.report import FLOOR, report, yardstick_losses
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise
from tests.tiny import byte_parts


def tiny(vocabulary, context=64):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=context,
        initializer_range=0.5,
    )
    return Qwen3ForCausalLM(config)


def token_losses(model, ids):
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return [float(-logs[i, token]) for i, token in enumerate(ids[1:])]


class TestIds:
    model = tiny(5)
    sequences = np.random.default_rng(0).integers(5, size=(7, 12))

    def test_equals_the_model_by_hand(self):
        found = read_in_process(self.model, SymbolCodec(None, 5), self.sequences)
        assert np.isnan(found[:, 0]).all()
        for row, sequence in zip(found, self.sequences):
            assert row[1:] == pytest.approx(token_losses(self.model, sequence.tolist()), abs=1e-5)

    def test_batches_change_nothing(self, monkeypatch):
        whole = read_in_process(self.model, SymbolCodec(None, 5), self.sequences)
        monkeypatch.setattr(reading, "LOGIT_BYTES", 1)
        single = read_in_process(self.model, SymbolCodec(None, 5), self.sequences)
        assert np.allclose(whole, single, atol=1e-5, equal_nan=True)

    def test_labels_are_scored_after_their_symbol(self):
        labels = np.roll(self.sequences, -1, 1)
        found = read_in_process(self.model, SymbolCodec(None, 5), self.sequences, labels)
        shifted = read_in_process(self.model, SymbolCodec(None, 5), self.sequences)
        assert np.allclose(found[:, :-1], shifted[:, 1:], atol=1e-6)

    def test_renormalise(self):
        """Over an alphabet of 3 of the 5 tokens the probabilities of all three sum to 1."""
        codec, context = SymbolCodec(None, 3), [0, 1, 2, 1]
        rows = np.array([[*context, symbol] for symbol in range(3)])
        whole = read_in_process(self.model, codec, rows, renormalise=True)[:, -1]
        part = read_in_process(self.model, codec, rows)[:, -1]
        assert np.exp(-whole).sum() == pytest.approx(1, abs=1e-6)
        assert np.exp(-part).sum() < 0.99
        assert np.allclose(whole - whole[0], part - part[0], atol=1e-5)

    def test_training_mode_is_kept(self):
        self.model.train()
        read_in_process(self.model, SymbolCodec(None, 5), self.sequences)
        assert self.model.training

    def test_bad_input(self):
        with pytest.raises(ConfigError, match=r"token ids 0\.\.4.*needs 8"):
            read_in_process(self.model, SymbolCodec(None, 9), self.sequences)
        with pytest.raises(ConfigError, match=r"length=65 .*context of 64"):
            read_in_process(self.model, SymbolCodec(None, 5), np.zeros((1, 65), int))


class TestText:
    def test_symbols_of_several_tokens(self):
        """With bytes, symbol 10 is ' 10': three tokens, whose losses are summed."""
        model, tokenizer, _ = byte_parts()
        codec = SymbolCodec(tokenizer, 12)
        sequence = np.array([10, 3, 11, 0])
        ids, ends = codec.encode(sequence)
        assert tokenizer.decode(ids[1:]) == " 10 3 11 0" and ids[0] == tokenizer.bos_token_id
        assert ends.tolist() == [4, 6, 9, 11]
        by_hand = token_losses(model, ids)
        expected = [sum(by_hand[0:3]), sum(by_hand[3:5]), sum(by_hand[5:8]), sum(by_hand[8:10])]
        assert read_in_process(model, codec, sequence[None])[0] == pytest.approx(expected, abs=1e-4)

    def test_without_a_start_token_the_first_symbol_is_not_scored(self):
        model, tokenizer, _ = byte_parts()
        codec = SymbolCodec(tokenizer, 12)
        whole = read_in_process(model, codec, np.array([[10, 3, 5], [3, 3, 5]]))
        codec.start = []
        found = read_in_process(model, codec, np.array([[10, 3, 5], [3, 3, 5]]))
        assert np.isnan(found[:, 0]).all() and np.isfinite(found[:, 1:]).all() and np.isfinite(whole).all()

    def test_rows_of_unequal_length_in_tokens(self):
        model, tokenizer, _ = byte_parts()
        codec = SymbolCodec(tokenizer, 200)
        rows = np.array([[1, 2, 3], [100, 150, 199], [5, 60, 7]])
        together = read_in_process(model, codec, rows)
        alone = np.concatenate([read_in_process(model, codec, row[None]) for row in rows])
        assert np.allclose(together, alone, atol=1e-4)

    def test_labels_need_one_token_each(self):
        model, tokenizer, _ = byte_parts()
        with pytest.raises(ConfigError, match="several tokens"):
            read_in_process(model, SymbolCodec(tokenizer, 12), np.array([[1]]), np.array([[1]]))

    def test_words(self):
        source = MetaLM(V=6, n=2, l=3, L=20, seed=0)
        words = ["_", *map(str, range(1, 6)), "6", "|"]
        tokenizer = word_tokenizer([" ".join(words)])
        codec = SymbolCodec(tokenizer, source.vocab_size, words)
        assert codec.single is not None
        x, y = source.batch(0, 4)
        losses = read_in_process(tiny(len(tokenizer)), codec, x, y)
        assert losses.shape == (4, 20) and np.isfinite(losses).all()
        with pytest.raises(ConfigError, match="does not know the word '0'"):
            SymbolCodec(tokenizer, 8)


class TestReport:
    def test_floor_is_below_and_gap_adds_up(self):
        source = Piecewise("lin", 40, seed=0)
        losses = read_in_process(tiny(2), SymbolCodec(None, 2), source.tokens(0, 50, "eval"))
        others = yardstick_losses(source, 0, 50, with_labels=False)
        found = report(losses, others)
        assert set(others) == {FLOOR, "KT", "PTW", "LIN"}
        assert found["model"]["by_position"][0] is None and found[FLOOR]["by_position"][0] is None
        gap = found["model"]["mean"] - found[FLOOR]["mean"]
        assert found["above_floor"]["mean"] == pytest.approx(gap) and gap > 0
        assert found["above_floor"]["total"] == pytest.approx(39 * gap)

    @pytest.mark.parametrize("source", [RLM(6, 3, 2.0), MetaLM(V=8, n=2, l=4, L=60, seed=0)], ids=["rlm", "metalm"])
    def test_floor_is_best_of_all(self, source):
        for labelled in (False, True) if isinstance(source, MetaLM) else (False,):
            others = yardstick_losses(source, 0, 40, labelled)
            means = {name: values[:16].mean() for name, (_, values) in others.items()}
            assert min(means, key=means.get) == FLOOR


class TestCommand:
    @pytest.fixture
    def model(self, tmp_path):
        tiny(4).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    def test_writes_curves_and_picture(self, model, tmp_path, capsys):
        out, plot = tmp_path / "read.json", tmp_path / "read.png"
        args = ["read", "piecewise", "--model", model, "--source-args", '{"law": "regular", "T": 32, "alphabet": 4}']
        assert main([*args, "-n", "5", "--json", str(out), "--plot", str(plot)]) == 0
        found = json.loads(out.read_text())
        assert len(found["curves"]["model"]["by_position"]) == 32 and found["sequences"] == 5
        assert plot.read_bytes()[:4] == b"\x89PNG"
        assert "above the floor" in capsys.readouterr().out

    def test_files_are_there_before_anything_is_printed(self, model, tmp_path, monkeypatch):
        def nobody_reads(found):
            raise KeyboardInterrupt

        monkeypatch.setattr("metarlgym.cli.read._show", nobody_reads)
        link, plot = tmp_path / "read.json", tmp_path / "read.svg"
        link.symlink_to("real.json")
        args = ["read", "piecewise", "--model", model, "--source-args", '{"T": 16, "alphabet": 4}', "--seed", "1"]
        assert main([*args, "-n", "3", "--json", str(link), "--plot", str(plot)]) == 130
        assert json.loads((tmp_path / "real.json").read_text())["seed"] == 1 and link.is_symlink()
        assert plot.read_bytes().startswith(b"<?xml")

    @pytest.mark.parametrize(
        ("args", "told"),
        [
            (["piecewise"], "needs a model"),
            (["piecewise", "--model", "runs/none"], "runs/none"),
            (["piecewise", "--model", "MODEL", "--source-args", "[1]"], "source-args='[1]'"),
            (["piecewise", "--model", "MODEL", "--source-args", '{"low": 0}'], "low=0"),
            (["piecewise", "--model", "MODEL", "--source-args", '{"speed": 1}'], "speed"),
            (["metalm", "--server", "http://127.0.0.1:9"], "--noisy"),
            (["rlm", "--server", "127.0.0.1:9"], "http://127.0.0.1:9"),
            (["rlm", "--server", "http://127.0.0.1:9"], "no model server"),
            (["rlm", "--model", "MODEL"], "token ids 0..3"),
        ],
    )
    def test_bad_input(self, args, told, model, capsys):
        assert main(["read", *(model if a == "MODEL" else a for a in args), "-n", "2"]) == 2
        line = capsys.readouterr().err
        assert told in line and line.strip().count("\n") == 0


def test_server_that_is_none():
    with pytest.raises(ConfigError, match="no scheme"):
        describe_server("localhost:8000")
