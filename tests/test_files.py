"""Files that are written whole or not at all, also through links."""

import os
import stat
import subprocess
import sys

import pytest

from metarlgym.datatypes import MetaRLGymError
from metarlgym.files import place_problem, real_path, replacing, write_json, write_text, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "big").mkdir()
    link = tmp_path / "x.json"
    link.symlink_to("big/x.json")
    for value in (1, 2):  # first the link leads nowhere, then to a file
        write_json({"a": value}, link)
        assert link.is_symlink() and (tmp_path / "big" / "x.json").read_text() == f'{{\n  "a": {value}\n}}\n'
    assert names(tmp_path) == ["big", "x.json"] and names(tmp_path / "big") == ["x.json"]


def test_what_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    write_text(path, "old é\n")
    path.chmod(0o640)
    with pytest.raises(RuntimeError), write_whole(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == "old é\n".encode() and names(tmp_path) == ["x.txt"]
    write_text(path, "new\n")
    assert path.read_text() == "new\n" and stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for name, make in (("link", lambda path: path.symlink_to("mine.txt")), ("folder", os.mkdir)):
        make(tmp_path / name)
        with (
            pytest.raises(MetaRLGymError, match="is in the way, a link or a folder"),
            replacing(tmp_path / "x", tmp_path / name),
        ):
            pass
    assert names(tmp_path) == ["folder", "link", "mine.txt"] and (tmp_path / "mine.txt").read_text() == "mine"
    os.link(tmp_path / "mine.txt", tmp_path / "left.part")  # of an attempt that was killed
    with replacing(tmp_path / "x", tmp_path / "left.part") as file:
        file.write(b"new")
    assert (tmp_path / "x").read_bytes() == b"new" and (tmp_path / "mine.txt").read_text() == "mine"


def test_an_interrupt_while_the_file_is_opened_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(descriptor, mode):
        os.close(descriptor)
        raise KeyboardInterrupt

    monkeypatch.setattr("metarlgym.files.os.fdopen", interrupted)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a", tmp_path / ".a.tmp"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_that_another_process_has_made_meanwhile_stays(tmp_path, monkeypatch):
    other = tmp_path / ".a.tmp"
    monkeypatch.setattr("metarlgym.files.remove_leftover", lambda path: path.write_text("theirs"))
    with pytest.raises(FileExistsError), replacing(tmp_path / "a", other):
        pass
    assert other.read_text() == "theirs"


def test_a_full_disk_is_one_line(tmp_path):
    link = tmp_path / "full.json"
    link.symlink_to("/dev/full")
    with pytest.raises(MetaRLGymError, match=r"full.json' cannot be written \(No space left on device\): free"):
        write_json([1], link)
    assert link.is_symlink() and stat.S_ISCHR(link.stat().st_mode)  # devices are written to, not replaced


def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "through")
    assert os.read(reader, 100) == b"through" and pipe.is_fifo()
    os.close(reader)


def test_places_where_nothing_can_be_written(tmp_path):
    for name, target in (("folder", "."), ("loop", "loop"), ("lost", "none/x")):
        (tmp_path / name).symlink_to(target)
    (tmp_path / "file").touch()
    assert "is a folder" in place_problem(tmp_path / "folder")
    assert "leads to itself" in place_problem(tmp_path / "loop")
    assert f"'{tmp_path}/none' is not a folder; create it first" in place_problem(tmp_path / "lost")
    assert "is not a folder" in place_problem(tmp_path / "file" / "x")
    assert "permission denied" in place_problem(type(tmp_path)("/proc/nothing/x.json").parent)
    assert place_problem(tmp_path / "file") is None and place_problem(type(tmp_path)("/dev/null")) is None
    assert real_path(tmp_path / "file") == tmp_path / "file"


SPECIAL = """
import sys
from pathlib import Path
from metarlgym.files import write_text
print("before")
write_text(Path(sys.argv[1]), "written\\n")
print("after")
"""


@pytest.mark.parametrize("place", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("mode", ["w", "a"])
def test_standard_output_in_a_file_keeps_what_is_there(tmp_path, place, mode):
    log = tmp_path / "log.txt"
    log.write_text("precious\n")
    with log.open(mode) as out:
        subprocess.run([sys.executable, "-c", SPECIAL, place], stdout=out, check=True)
    kept = "precious\n" if mode == "a" else ""
    assert log.read_text() == kept + "before\nwritten\nafter\n"
