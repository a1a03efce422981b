"""Sequences as Parquet: true columns, the same rows for any number of shards, and going on after a stop."""

import fcntl
import multiprocessing
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarlgym import __version__
from metarlgym.datatypes import ConfigError
from metarlgym.sequences.data.parquet import read_settings, write
from metarlgym.sequences.data.tables import Export
from metarlgym.sequences.sources import RLM, MetaLM, Piecewise, PseudoLanguage

SMALL = {
    "metalm": {"V": 300, "n": 3, "l": 5.0, "L": 40},
    "rlm": {"v": 8, "L": 3},
    "piecewise": {"T": 24, "alphabet": 3},
    "pseudo": {"V": 12, "n_hidden": 8, "L": 20},
}


def export(source, sequences=23, part_size=4, **more):
    return Export(source, sequences, SMALL[source], seed=5, part_size=part_size, **more)


def column(table, name):
    return np.array(table[name].to_pylist())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("source", SMALL)
def test_columns_are_what_the_source_says(source, split, tmp_path):
    theta = source == "piecewise"
    write(export(source, split=split, probabilities=theta), tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["index"].to_pylist() == list(range(23))
    tokens = column(table, "tokens")
    if source == "metalm":
        x, y = MetaLM(**SMALL[source], seed=5).batch(0, 23, split)
        assert (tokens == x).all() and (column(table, "labels") == y).all()
        assert table["tokens"].type.value_type == table["labels"].type.value_type == pa.uint16()
    elif source == "rlm":
        levels = RLM(**SMALL[source], seed_samples=5).trees(0, 23, split)
        assert (tokens == levels[-1]).all() and (column(table, "root") == levels[0][:, 0]).all()
        assert table["root"].type == table["tokens"].type.value_type == pa.uint8()
    elif source == "piecewise":
        truth = Piecewise(**SMALL[source], seed=5).batch(0, 23, split)
        assert (tokens == truth.tokens).all() and (column(table, "theta") == truth.theta).all()
        assert table["switches"].to_pylist() == [np.flatnonzero(row).tolist() for row in truth.switches]
        assert sum(map(len, table["switches"].to_pylist())) > 0
    else:
        x, probs = PseudoLanguage(**SMALL[source], seed=5).batch(0, 23, split)
        assert (tokens == x).all() and (column(table, "probabilities") == probs).all()


@pytest.mark.parametrize("source", SMALL)
def test_any_number_of_shards_gives_the_same_rows(source, tmp_path):
    write(export(source), tmp_path / "whole.parquet")
    whole = pq.read_table(tmp_path / "whole.parquet").replace_schema_metadata()
    for shards in (1, 2, 3, 7):
        files, together = [], tmp_path / f"of{shards}"
        for shard in reversed(range(shards)):
            files.insert(0, tmp_path / f"{shard}of{shards}.parquet")
            write(export(source, shard=(shard, shards)), files[0])
            write(export(source, shard=(shard, shards), part_size=3), together)
        rows = pa.concat_tables([pq.read_table(file).replace_schema_metadata() for file in files])
        assert rows.combine_chunks().equals(whole.combine_chunks())
        parts = [pq.read_table(part).replace_schema_metadata() for part in sorted(together.glob("*.parquet"))]
        assert pa.concat_tables(parts).combine_chunks().equals(whole.combine_chunks())


@pytest.mark.parametrize("source", SMALL)
def test_more_shards_than_sequences(source, tmp_path):
    for shard in range(3):
        assert write(export(source, sequences=2, shard=(shard, 3)), tmp_path / f"{shard}.parquet").rows == min(shard, 1)
    tables = [pq.read_table(tmp_path / f"{shard}.parquet").replace_schema_metadata() for shard in range(3)]
    assert pa.concat_tables(tables)["index"].to_pylist() == [0, 1]


def test_settings_are_kept(tmp_path):
    done = write(export("metalm", shard=(1, 2)), tmp_path / "x.parquet")
    assert done == (12, (tmp_path / "x.parquet").stat().st_size, True)
    assert read_settings(tmp_path / "x.parquet") == {
        "source": "metalm",
        "arguments": {"V": 300, "n": 3, "l": 5.0, "e": 0.1, "L": 40, "elements": None},
        "seed": 5,
        "split": "train",
        "sequences": 23,
        "shard": 1,
        "shards": 2,
        "part_size": 4,
        "version": __version__,
        "columns": ["index", "tokens", "labels"],
    }


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_what_is_finished_is_left_alone(name, tmp_path):
    first = write(export("rlm"), tmp_path / name)
    before = contents(tmp_path)
    assert write(export("rlm"), tmp_path / name) == (first.rows, first.size, False)
    assert contents(tmp_path) == before and not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_goes_on_from_the_parts_that_are_there(name, tmp_path):
    write(export("rlm"), tmp_path / "all")
    write(export("rlm"), tmp_path / "all.parquet")
    parts = tmp_path / ("x.parquet.parts" if name == "x.parquet" else "x")
    parts.mkdir()
    for k in (0, 1, 4):
        part = parts / f"part-{k:05d}.parquet"
        part.write_bytes((tmp_path / "all" / part.name).read_bytes())
    (parts / ".part-00002.parquet.tmp").write_bytes(b"a part that was being written")
    told = []
    write(export("rlm"), tmp_path / name, told.append)
    assert told[0] == 12 and told[-1] == 23 and told == sorted(told)
    if name == "x":
        assert contents(parts) == contents(tmp_path / "all")
    else:
        assert (tmp_path / name).read_bytes() == (tmp_path / "all.parquet").read_bytes() and not parts.exists()


def test_parts_left_beside_a_finished_file_are_removed(tmp_path):
    write(export("rlm"), tmp_path / "x.parquet")
    write(export("rlm"), tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / "x.parquet.parts")  # stopped between the last rename and the clearing
    assert not write(export("rlm"), tmp_path / "x.parquet").fresh
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


CHANGES = {
    "seed is 5 there and 6 here": {"seed": 6},
    "split is train there and eval here": {"split": "eval"},
    "sequences is 23 there and 24 here": {"sequences": 24},
    "L is 3 there and 4 here": {"arguments": {"v": 8, "L": 4}},
    "part_size is 4 there and 5 here": {"part_size": 5},
    "source is rlm there and metalm here": {"source": "metalm", "arguments": {}},
    "shards is 1 there and 2 here": {"shard": (0, 2)},
}


@pytest.mark.parametrize("stage", ["finished file", "parts of a file", "folder"])
@pytest.mark.parametrize("message", CHANGES)
def test_other_settings_are_refused(message, stage, tmp_path):
    known = {"source": "rlm", "sequences": 23, "arguments": SMALL["rlm"], "seed": 5, "part_size": 4}
    out = tmp_path / ("x" if stage == "folder" else "x.parquet")
    write(Export(**known), tmp_path / ("x.parquet" if stage == "finished file" else "x"))
    if stage == "parts of a file":
        (tmp_path / "x").rename(tmp_path / "x.parquet.parts")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=f"holds other data .*{message}"):
        write(Export(**known | CHANGES[message]), out)
    assert contents(tmp_path) == before


def _limited(folder, pipe):
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))  # as on a full disk, writing fails on the way
    try:
        write(export("rlm"), folder)
    except ConfigError as error:
        pipe.send(str(error))


@pytest.mark.parametrize("name", ["x.parquet", "x"])
def test_a_full_disk_keeps_what_was_written(name, tmp_path):
    write(export("rlm"), tmp_path / "all")
    parts = tmp_path / ("x.parquet.parts" if name == "x.parquet" else "x")
    parts.mkdir()
    for k in (0, 1):
        (parts / f"part-{k:05d}.parquet").write_bytes((tmp_path / "all" / f"part-{k:05d}.parquet").read_bytes())
    before = contents(parts)
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=_limited, args=(tmp_path / name, there))
    process.start()
    process.join(30)
    assert here.poll()
    message = here.recv()
    assert "File too large; 8 of 23 sequences are kept" in message and "\n" not in message
    assert {k: v for k, v in contents(parts).items() if not k.endswith("lock")} == before
    assert write(export("rlm"), tmp_path / name).rows == 23


def test_two_at_once_are_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with (tmp_path / "x" / ".part-lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="being written by another process"):
            write(export("rlm"), tmp_path / "x")
    assert write(export("rlm"), tmp_path / "x").fresh


def test_what_is_not_ours_is_refused_and_kept(tmp_path):
    (tmp_path / "x.parquet").write_text("a letter")
    with pytest.raises(ConfigError, match="cannot be read as Parquet"):
        write(export("rlm"), tmp_path / "x.parquet")
    (tmp_path / "y").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "y" / "a.parquet")
    with pytest.raises(ConfigError, match="not written by metarlgym"):
        write(export("rlm"), tmp_path / "y")
    write(export("rlm"), tmp_path / "z")
    pq.write_table(pq.read_table(tmp_path / "z" / "part-00000.parquet")[:2], tmp_path / "z" / "part-00000.parquet")
    with pytest.raises(ConfigError, match="has 2 rows instead of 4"):
        write(export("rlm"), tmp_path / "z")
    (tmp_path / "v.parquet.parts").mkdir()
    (tmp_path / "v.parquet.parts" / "note.txt").write_text("mine")
    write(export("rlm"), tmp_path / "v.parquet")
    assert contents(tmp_path / "v.parquet.parts") == {"note.txt": b"mine"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "lm"}, "source='lm' is not known: use one of metalm"),
        ({"sequences": 0}, "sequences=0 must be at least 1"),
        ({"sequences": 1.5}, "sequences=1.5 must be a whole number"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"seed": None}, "seed=None must be a whole number"),
        ({"split": "test"}, "split='test' is not known"),
        ({"shard": (2, 2)}, "shard: K=2 must be at most 1"),
        ({"shard": (0, 0)}, "shard: N=0 must be at least 1"),
        ({"part_size": 0}, "part_size=0 must be at least 1"),
        ({"probabilities": True}, "probabilities=True has no effect on source='rlm'"),
        ({"arguments": {"v": 1}}, "v=1 must be at least 2"),
        ({"arguments": {"V": 8}}, "V is not a setting of rlm: it has v, L, beta"),
        ({"arguments": {"seed_samples": 3}}, "seed_samples is not a setting of rlm"),
    ],
)
def test_bad_values_are_one_line(changes, message):
    with pytest.raises(ConfigError) as caught:
        Export(**{"source": "rlm", "sequences": 2} | changes)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_default_parts_are_bounded():
    for source, arguments in SMALL.items():
        made = Export(source, 10**9, arguments)
        assert 10**5 < made.part_size * made.made.length < 2**22 and made.chunk < made.part_size
    assert Export("metalm", 1, {"L": 10**7}).part_size == 1
