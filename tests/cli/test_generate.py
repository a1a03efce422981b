"""`metarlgym generate`: files that others read, stopped and gone on with."""

import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

from metarlgym.cli.main import main
from metarlgym.sequences.data.parquet import read_settings

# Slow enough by the token to be met in the middle of the work.
LONG = ("pseudo", "--V", "128", "--L", "256", "--sequences", "480", "--part-size", "4")


def generate(*arguments):
    return main(["generate", *map(str, arguments)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "x.parquet"
    assert generate(*LONG, "--out", file) == 0
    return file


@pytest.mark.parametrize(("name", "stop"), [("x.parquet", signal.SIGKILL), ("x", signal.SIGINT)])
def test_stopped_and_run_again(name, stop, whole, tmp_path, capsys):
    command = [sys.executable, "-m", "metarlgym.cli.main", "generate", *LONG, "--out", str(tmp_path / name)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    parts = tmp_path / ("x.parquet.parts" if name == "x.parquet" else "x")
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.parquet"))) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(stop)
    said, _ = process.communicate(timeout=60)
    there = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 5 <= len(there) < 120
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "run the same command again to resume" in " ".join(said.split())
        assert not list(parts.glob(".*.tmp"))
    else:
        assert process.returncode == -signal.SIGKILL

    assert generate(*LONG, "--seed", "1", "--out", tmp_path / name) == 2
    assert "seed is 0 there and 1 here" in " ".join(capsys.readouterr().err.split())

    assert generate(*LONG, "--out", tmp_path / name) == 0
    if name == "x":
        assert {key: (parts / key).stat().st_mtime_ns for key in there} == there
        assert pq.read_table(parts).combine_chunks().equals(pq.read_table(whole).combine_chunks())
    else:
        assert (tmp_path / name).read_bytes() == whole.read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_last_line_and_second_run(tmp_path, capsys):
    arguments = ("rlm", "--v", "16", "--L", "3", "-n", "1500", "--out", tmp_path / "r.parquet")
    assert generate(*arguments) == 0
    first = " ".join(capsys.readouterr().out.split())
    assert first.startswith(str(tmp_path / "r.parquet")) and "1,500 rows" in first and "KiB" in first
    assert generate(*arguments) == 0
    assert "was complete already" in " ".join(capsys.readouterr().out.split())


def test_every_option_reaches_its_source(tmp_path):
    calls = {
        "metalm": {"V": 9, "n": 2, "l": 4.5, "e": 0.25, "L": 30},
        "rlm": {"v": 5, "L": 2, "beta": 1.5, "seed_rules": 3, "num_data": 2},
        "piecewise": {"law": "random", "T": 30, "alphabet": 3, "low": 2, "high": 9},
        "pseudo": {"V": 9, "n_gram": 2, "n_emb": 3, "n_hidden": 4, "scale": 2.5, "L": 30, "language": 7},
    }
    for source, settings in calls.items():
        options = [text for k, v in settings.items() for text in (f"--{k.replace('_', '-')}", v)]
        split = "train" if source == "rlm" else "eval"  # num_data is for the train split
        shared = ("--sequences", 4, "--seed", 8, "--split", split, "--shard", "1/2", "--part-size", 1)
        assert generate(source, *options, *shared, "--out", tmp_path / f"{source}.parquet") == 0
        kept = read_settings(tmp_path / f"{source}.parquet")
        assert kept["arguments"].items() >= settings.items()
        assert [kept[k] for k in ("seed", "split", "sequences", "shard", "shards", "part_size")] == [
            8, split, 4, 1, 2, 1,
        ]  # fmt: skip
        assert pq.read_table(tmp_path / f"{source}.parquet")["index"].to_pylist() == [2, 3]
    uneven = ("--alphabet", 2, "--concentration", 0.5, "--concentration", 2)
    assert generate("piecewise", *uneven, "--probabilities", "-n", 2, "--out", tmp_path / "p.parquet") == 0
    kept = read_settings(tmp_path / "p.parquet")
    assert kept["arguments"]["concentration"] == [0.5, 2.0] and "theta" in kept["columns"]


def test_datasets_reads_a_folder_of_shards(tmp_path, monkeypatch):
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    folder = tmp_path / "eval"  # a name that readers might take for a split
    for shard in (1, 0):
        options = ("--T", 16, "--probabilities", "-n", 11, "--part-size", 2, "--shard", f"{shard}/2")
        assert generate("piecewise", *options, "--out", folder) == 0
    assert generate("piecewise", "--T", 16, "--probabilities", "-n", 11, "--out", tmp_path / "x.parquet") == 0
    data = load_dataset("parquet", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    one = load_dataset(
        "parquet", data_files=str(tmp_path / "x.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert data["index"][:] == list(range(11)) and data.to_list() == one.to_list()
    assert data.with_format("torch")[0]["theta"].shape == (16, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rlm", "--out", "x.parquet"), "Missing option '--sequences'"),
        (("rlm", "-n", 5), "Missing option '--out'"),
        (("rlm", "-n", 0, "--out", "x.parquet"), "sequences=0 must be at least 1"),
        (("rlm", "-n", 5, "--out", "x.csv"), "ends in '.csv': use .parquet"),
        (("rlm", "-n", 5, "--out", "no/such/x.parquet"), "'no/such' is not a folder; create it first"),
        (("rlm", "-n", 5, "--out", "no/such/x"), "'no/such' is not a folder; create it first"),
        (("rlm", "-n", 5, "--out", "folder.parquet"), "is a folder: name a file in it"),
        (("rlm", "-n", 5, "--out", "file"), "is a file: name a folder"),
        (("rlm", "-n", 5, "--out", "/proc/x.parquet"), "cannot be written"),
        (("rlm", "-n", 5, "--out", "x", "--shard", "2/2"), "shard='2/2' must be K/N with K from 0 to N-1"),
        (("rlm", "-n", 5, "--out", "x", "--shard", "1"), "shard='1' must be K/N"),
        (("rlm", "-n", 5, "--out", "x", "--shard", "-1/2"), "shard='-1/2' must be K/N"),
        (("rlm", "-n", 5, "--out", "x", "--shard", "0/0"), "shard='0/0' must be K/N"),
        (("rlm", "-n", 5, "--out", "x", "--split", "test"), "split='test' is not known"),
        (("rlm", "-n", 5, "--out", "x", "--v", 1), "v=1 must be at least 2"),
        (("metalm", "--sequences", 5, "--out", "x", "--e", 2), "e=2.0 must be a number"),
        (("piecewise", "-n", 5, "--out", "x", "--law", "daily"), "law='daily' is not known"),
        (("pseudo", "-n", 5, "--out", "x", "--probabilities"), "No such option"),
        (("words", "-n", 5, "--out", "x"), "No such command 'words'"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").touch()
    assert generate(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.parquet"]


@pytest.mark.parametrize("link", ["file", "dangling"])
def test_a_link_is_followed_and_stays(link, tmp_path):
    (tmp_path / "big").mkdir()
    arguments = ("piecewise", "--T", 16, "-n", 5)
    assert generate(*arguments, "--out", tmp_path / "plain.parquet") == 0
    if link == "file":
        assert generate(*arguments, "--out", tmp_path / "big" / "data.parquet") == 0
    (tmp_path / "data.parquet").symlink_to("big/data.parquet")
    assert generate(*arguments, "--out", tmp_path / "data.parquet") == 0
    assert (tmp_path / "data.parquet").is_symlink()
    assert (tmp_path / "big" / "data.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["big", "data.parquet", "data.parquet", "plain.parquet"]


@pytest.mark.parametrize(
    ("name", "target", "told"),
    [
        ("x.parquet", "none/x.parquet", "none' is not a folder; create it first"),
        ("x", "none", "none', which does not exist: create that folder first"),
        ("x.parquet", "x.parquet", "is a link that leads to itself"),
        ("x", "x", "is a link that leads to itself"),
        ("x.parquet", "/dev/null", "is neither a file nor a folder"),
    ],
)
def test_links_that_lead_nowhere(name, target, told, tmp_path, capsys):
    (tmp_path / name).symlink_to(target)
    assert generate("rlm", "-n", 5, "--out", tmp_path / name) == 2
    line = capsys.readouterr().err.strip()
    assert told in line and "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).is_symlink()


def test_a_damaged_part_is_named(tmp_path, capsys):
    arguments = ("rlm", "--v", 16, "--L", 3, "-n", 40, "--part-size", 10)
    assert generate(*arguments, "--out", tmp_path / "x") == 0
    part = tmp_path / "x" / "part-00002.parquet"
    data = bytearray(part.read_bytes())
    data[100:110] = bytes(255 - byte for byte in data[100:110])
    part.write_bytes(data)
    assert generate(*arguments, "--out", tmp_path / "x") == 0
    said = capsys.readouterr().out
    assert f"'{part}' was damaged" in said and "is made again; the other parts are kept" in said
    assert pq.read_table(tmp_path / "x")["index"].to_pylist() == list(range(40))
