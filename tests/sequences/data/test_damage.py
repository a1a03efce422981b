"""Damaged parts: found by checksums and by the column index, made again, and nothing else touched."""

import random
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metarlgym.datatypes import ConfigError
from metarlgym.sequences.data import parquet
from metarlgym.sequences.data.parquet import write
from metarlgym.sequences.data.tables import Export

PARTS = 5


def export():
    return Export("metalm", 50, {"V": 300, "n": 3, "l": 5.0, "L": 40}, seed=5, part_size=10)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """`all` in parts, and `all.parquet`."""
    folder = tmp_path_factory.mktemp("good")
    write(export(), folder / "all")
    write(export(), folder / "all.parquet")
    return folder


@pytest.fixture(params=["x.parquet", "x"])
def case(request, good, tmp_path):
    """Where to write, and the folder of its parts, all of which are there."""
    parts = tmp_path / ("x.parquet.parts" if request.param == "x.parquet" else "x")
    shutil.copytree(good / "all", parts)
    return tmp_path / request.param, parts


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(out, parts, good):
    if out == parts:
        assert contents(parts) == contents(good / "all")
    else:
        assert out.read_bytes() == (good / "all.parquet").read_bytes() and not parts.exists()


def column_place(part, name):
    """First byte of a column's pages."""
    group = pq.ParquetFile(part).metadata.row_group(0)
    column = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.split(".")[0] == name)
    return min(o for o in (column.dictionary_page_offset, column.data_page_offset) if o), column.total_compressed_size


@pytest.mark.parametrize("column", ["index", "tokens", "labels"])
def test_flipped_bytes(column, case, good):
    out, parts = case
    part = parts / "part-00003.parquet"
    start, size = column_place(part, column)
    data = bytearray(part.read_bytes())
    for k in range(start + size - 8, start + size):
        data[k] ^= 0xFF
    part.write_bytes(data)
    others = {name: (parts / name).stat().st_mtime_ns for name in contents(parts) if name != part.name}
    told = []
    write(export(), out, notice=told.append)
    assert len(told) == 1 and f"{str(part)!r} was damaged" in told[0] and "\n" not in told[0]
    check(out, parts, good)
    if out == parts:
        assert {name: (parts / name).stat().st_mtime_ns for name in others} == others


def test_a_wrong_index_whose_checksums_are_right(case, good):
    out, parts = case
    part = parts / "part-00001.parquet"
    table = pq.read_table(part)
    wrong = table.set_column(0, "index", pa.array(np.arange(10, 20)[::-1].copy())).replace_schema_metadata(
        table.schema.metadata
    )
    pq.write_table(wrong, part, compression="zstd", write_page_checksum=True)
    told = []
    write(export(), out, notice=told.append)
    assert len(told) == 1 and "column index does not count up" in told[0]
    check(out, parts, good)


def test_any_damage_ends_in_the_right_rows_or_in_one_line(good, tmp_path):
    """Bytes changed anywhere, footers included, and files cut short."""
    rng, made_again = random.Random(3), 0
    for k in range(40):
        name = "x.parquet" if k % 2 else "x"
        folder = tmp_path / str(k)
        parts = folder / ("x.parquet.parts" if k % 2 else "x")
        shutil.copytree(good / "all", parts)
        part = parts / f"part-{rng.randrange(PARTS):05d}.parquet"
        data = bytearray(part.read_bytes())
        place = rng.randrange(len(data))
        if k % 8 < 2:
            del data[place:]
        else:
            data[place : place + 4] = rng.randbytes(len(data[place : place + 4]))
        part.write_bytes(data)
        before, told = contents(parts), []
        try:
            write(export(), folder / name, notice=told.append)
        except ConfigError as error:
            assert "\n" not in str(error) and contents(parts) == before
            assert str(part) in str(error) or "holds other data" in str(error)
            continue
        made_again += len(told)
        assert pq.read_table(folder / name).equals(pq.read_table(good / "all.parquet"))
    assert made_again > 15


def test_a_part_that_cannot_be_read_in_a_folder_of_the_user(good, tmp_path):
    """Nothing shows that it is ours: it is named and kept."""
    shutil.copytree(good / "all", tmp_path / "x")
    (tmp_path / "x" / "part-00002.parquet").write_text("a letter")
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"part-00002.parquet': cannot be read as Parquet: delete it and run this"):
        write(export(), tmp_path / "x")
    assert contents(tmp_path) == before


def test_a_finished_file_that_is_damaged(good, tmp_path):
    file = tmp_path / "x.parquet"
    shutil.copy(good / "all.parquet", file)
    shutil.copytree(good / "all", tmp_path / "x.parquet.parts")  # stopped before they were removed
    start, size = column_place(file, "tokens")
    data = bytearray(file.read_bytes())
    data[start + size - 1] ^= 0xFF
    file.write_bytes(data)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"x.parquet' is damaged .*CRC.*: name another place, or delete it") as caught:
        write(export(), file)
    assert "\n" not in str(caught.value) and contents(tmp_path) == before


def test_parts_stay_where_the_merged_file_is_not_what_was_written(good, tmp_path, monkeypatch):
    shutil.copytree(good / "all", tmp_path / "x.parquet.parts")
    before = contents(tmp_path)
    verify = parquet.verify

    def spoilt(path, *rest):  # a disk that loses a byte
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0xFF
        path.write_bytes(data)
        verify(path, *rest)

    monkeypatch.setattr(parquet, "verify", spoilt)
    with pytest.raises(ConfigError, match=r"not written as it should be \(.*all parts are kept"):
        write(export(), tmp_path / "x.parquet")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", [".part-lock", ".part-00001.parquet.tmp", ".merged.tmp"])
@pytest.mark.parametrize("single", [True, False], ids=["file", "folder"])
def test_links_at_hidden_names_are_not_followed(name, single, good, tmp_path):
    if name == ".merged.tmp" and not single:
        pytest.skip("parts of a folder are not merged")
    parts = tmp_path / ("x.parquet.parts" if single else "x")
    shutil.copytree(good / "all", parts)
    (parts / "part-00001.parquet").unlink()
    (tmp_path / "letter.txt").write_text("precious")
    (parts / name).symlink_to("../letter.txt")
    with pytest.raises(ConfigError, match=f"{name}' is .*: move it away") as caught:
        write(export(), tmp_path / ("x.parquet" if single else "x"))
    assert "\n" not in str(caught.value)
    assert (parts / name).is_symlink() and (tmp_path / "letter.txt").read_text() == "precious"


def test_hidden_files_of_others_stay(good, tmp_path):
    parts = tmp_path / "x.parquet.parts"
    shutil.copytree(good / "all", parts)
    for name in (".mine.tmp", ".part-1.tmp", ".part-00009.parquet.tmp"):
        (parts / name).write_text("mine")
    write(export(), tmp_path / "x.parquet")
    assert sorted(contents(parts)) == [".mine.tmp", ".part-1.tmp"]  # the third is a part that was left unfinished


def test_a_file_with_the_name_of_the_lock(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".part-lock").write_text("mine")
    with pytest.raises(ConfigError, match="part-lock' is not the empty file"):
        write(export(), tmp_path / "x")
    assert contents(tmp_path) == {".part-lock": b"mine"}
