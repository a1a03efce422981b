"""JSON lines of a run: cut back to a checkpoint, and nothing lost to a full disk."""

import json

import pytest

from metarlgym.runtime.log_lines import Lines, cut_lines


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_after_a_step_and_a_cut_one_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    odd = '{"step": 2, "text": "a\u2028b\u0085é"}\n'  # line ends that are not those of the file
    path.write_text('{"step": 1}\n' + odd + 'half a li{"step": 3}\n{"step": 3}\n{"step": 2, "eva', encoding="utf-8")
    cut_lines(path, 2)
    assert path.read_text(encoding="utf-8") == '{"step": 1}\n' + odd
    cut_lines(path, -1)
    assert path.read_text() == ""
    cut_lines(tmp_path / "nowhere", 1)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("value", ["null", '"a"', "[]", "{}", "1e999", "9" * 400])
def test_a_line_whose_step_is_no_number_is_damaged(value, tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(f'{{"step": 1}}\n{{"step": {value}}}\nnull\n[]\n')
    cut_lines(path, 2)
    assert path.read_text() == '{"step": 1}\n'


def test_the_line_at_the_end_of_training_goes_when_training_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1}\n{"step": 1, "train_runtime": 2.0}\n'
    path.write_text(text)
    cut_lines(path, 2)
    assert path.read_text() == text
    cut_lines(path, 2, summary=False)
    assert path.read_text() == '{"step": 1}\n'


def test_what_a_full_disk_refuses_is_written_later(tmp_path):
    told = []
    file = Lines(tmp_path / "metrics.jsonl", told.append)
    file.write({"step": 1})
    (tmp_path / "metrics.jsonl").rename(tmp_path / "kept")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    for step in (2, 3):
        file.write({"step": step})
    assert len(told) == 1 and "cannot be written (No space left on device)" in told[0] and "\n" not in told[0]
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "kept").rename(tmp_path / "metrics.jsonl")
    file.write({"step": 4})
    assert [line["step"] for line in lines(file.path)] == [1, 2, 3, 4]
    assert len(told) == 2 and "is written again, 3 lines at once" in told[1]
    file.close()
    assert len(told) == 2


def test_a_half_written_line_is_taken_back(tmp_path):
    """A limit on the size of files, in the middle of a line."""
    resource = pytest.importorskip("resource")
    told = []
    file = Lines(tmp_path / "metrics.jsonl", told.append)
    file.write({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))  # python ignores SIGXFSZ: writes raise
    try:
        file.write({"step": 2, "text": "long enough"})
        assert lines(file.path) == [{"step": 1}] and len(told) == 1
        file.close()
        assert "the last 1 lines could not be written and are lost" in told[-1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    file.write({"step": 3})
    assert [line["step"] for line in lines(file.path)] == [1, 2, 3]
