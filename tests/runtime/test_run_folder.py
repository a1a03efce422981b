"""Run folders: what is claimed, what is refused with nothing touched, what a failed start leaves."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
from pathlib import Path

import pytest

from metarlgym import ConfigError, MetaRLGymError
from metarlgym.runtime.integrity import mark_complete, marked
from metarlgym.runtime.layout import LAYOUTS, MODEL, PICTURE_MARK, foreign, remove
from metarlgym.runtime.mark import COMPLETE, recorded
from metarlgym.runtime.run_folder import RunFolder, replace_text
from metarlgym.selflearning.run import EXPERIMENTS, find_experiment

KINDS = sorted(LAYOUTS)
TEXTS = {"config.yaml": "seed: 0\n", "settings.json": "{}\n"}
WRITTEN = {
    "train": ["metrics.jsonl", "start/config.json", "start/COMPLETE", "checkpoint-2/model.safetensors", "eval.json"],
    "pretrain": ["metrics.jsonl", "best/config.json", "checkpoint-10/optimizer.pt", "summary.json", "curves.png"],
    "selflearn": ["variants/score-live-0.json", "variants/score-live-0.jsonl", "summary.json", "report.html"],
}
FOREIGN = {"src/thesis.tex": "years", "notes.md": "mine", "checkpoint-best/x.bin": "kept", "start.txt": "list"}


def tree(folder):
    """Everything below a folder: hashes of files, targets of links, folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"  # noqa: PTH115
        else:
            found[name] = "folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def write(folder, files):
    for name, text in files.items() if isinstance(files, dict) else ((name, name) for name in files):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def finished(folder, kind, **files):
    """A run that came to its end."""
    run = RunFolder.claim(folder, kind, "new")
    run.commit(TEXTS)
    write(folder, WRITTEN[kind])
    run.close()
    return tree(folder)


def refused(folder, match, kind="train", mode="new", inputs=None):
    before = tree(folder.parent)
    with pytest.raises(ConfigError, match=match) as caught:
        RunFolder.claim(folder, kind, mode, inputs)
    assert "\n" not in str(caught.value)
    assert tree(folder.parent) == before


# ---------------------------------------------------------------------- what a run may remove


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("link", [False, True])
def test_overwrite_removes_what_the_run_wrote_and_nothing_else(kind, link, tmp_path):
    folder = tmp_path / "run"
    if link:
        (tmp_path / "data").mkdir()
        folder.symlink_to(tmp_path / "data")
    finished(folder, kind)
    write(folder, FOREIGN)
    (folder / "to_data").symlink_to("/nowhere")
    before = tree(folder)
    run = RunFolder.claim(folder, kind, "overwrite")
    run.commit(TEXTS)
    run.close()
    after = tree(folder)
    ours = {"config.yaml", "settings.json", "run.json"}
    assert ours <= after.keys() and after["run.json"] != before["run.json"]
    kept = {name: value for name, value in after.items() if name not in ours}
    assert kept == {name: before[name] for name in kept}
    assert {*FOREIGN, "to_data"} <= kept.keys() and not any(name in kept for name in WRITTEN[kind])
    assert folder.is_symlink() == link


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["new", "overwrite", "resume"])
def test_a_folder_with_our_names_and_no_run_is_left_alone(kind, mode, tmp_path):
    folder = tmp_path / "thatfolder"
    write(folder, {"config.yaml": "a: 1", "src/thesis.tex": "years"})
    refused(folder, "holds config.yaml, which a run would write, but no run.json", kind, mode)


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("train", "start/data.csv"),
        ("train", "final/adapter/plot.png"),
        ("train", "checkpoint-2/deep/er/x"),
        ("pretrain", "best/notes.md"),
        ("selflearn", "variants/notes.md"),
        ("selflearn", "variants/more/x.json"),
        ("selflearn", "variants/notes.json"),
        ("train", "final/modeling_mine.py"),
        ("train", "final/my.jinja"),
        ("train", "checkpoint-2/my.model"),
        ("train", "checkpoint-2/optimizer_best.pt"),
        ("pretrain", "final/preprocessor_config.json"),
    ],
)
def test_a_foreign_file_among_a_runs_files_stops_overwrite(kind, place, tmp_path):
    folder = tmp_path / "run"
    finished(folder, kind)
    write(folder, {place: "mine"})
    first = place if "deep" not in place and "more" not in place else place.rpartition("/")[0].split("/er")[0]
    refused(folder, f"holds '{first}', not written by a run: --overwrite would remove it", kind, "overwrite")


@pytest.mark.parametrize("place", ["checkpoint-2", "metrics.jsonl", "final/model.safetensors"])
def test_a_link_among_a_runs_files_stops_overwrite(place, tmp_path):
    folder = tmp_path / "run"
    finished(folder, "train")
    write(tmp_path / "big", ["model.safetensors", "config.json"])
    (folder / "final").mkdir()
    for path in [folder / place] if (folder / place).exists() else []:
        path.rename(tmp_path / "moved")
    (folder / place).symlink_to(tmp_path / "big")
    refused(folder, f"holds '{place}', a link", mode="overwrite")


def test_a_marked_folder_holds_what_its_mark_lists_and_no_more(tmp_path):
    """Code that came with a model is the run's; a file with a name of ours that was added later is not."""
    folder = tmp_path / "run"
    finished(folder, "train")
    write(folder, ["final/modeling_x.py", "final/adapter/config.json"])
    mark_complete(folder / "start", 0)
    (folder / "start" / "warmup").mkdir()  # empty
    mark_complete(folder / "final", 2)
    kept = {"eval.json.part": "mine", "metrics.txt": "mine"}
    write(folder, kept)
    assert foreign(folder, LAYOUTS["train"]) is None
    for name in ("final/vocab.json", "final/adapter/tokenizer.json", "start/warmup/README.md"):
        write(folder, {name: "mine"})
        refused(folder, f"holds '{name}', not written by a run", mode="overwrite")
        (folder / name).unlink()
    run = RunFolder.claim(folder, "train", "overwrite")
    run.commit(TEXTS)
    run.close()
    assert not (folder / "final").exists() and {name: (folder / name).read_text() for name in kept} == kept


def test_a_folder_that_is_written_again_does_not_take_over_what_a_user_put_there(tmp_path):
    write(tmp_path, ["modeling_x.py", "config.json"])
    mark_complete(tmp_path, 1)
    write(tmp_path, ["mine.py", "taken.py", "folder/notes.md"])
    with marked(tmp_path, MODEL, 2):
        assert not (tmp_path / COMPLETE).exists()
        os.utime(tmp_path / "taken.py", ns=(1, 1))  # written over
        write(tmp_path, ["model.safetensors"])
    assert sorted(recorded(tmp_path)) == ["config.json", "model.safetensors", "modeling_x.py", "taken.py"]


@pytest.mark.parametrize("content", ["", "2\n", "[]", "{}", '{"files": 3}', '{"files": {"x.csv": 3}}'])
def test_a_mark_that_lists_nothing_leaves_the_names_that_libraries_use(content, tmp_path):
    write(tmp_path, {"checkpoint-2/COMPLETE": content, "checkpoint-2/x.csv": "", "checkpoint-2/model.safetensors": ""})
    assert foreign(tmp_path, LAYOUTS["train"]).name == "x.csv"
    remove(tmp_path, LAYOUTS["train"])
    assert [path.name for path in (tmp_path / "checkpoint-2").iterdir()] == ["x.csv"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_variant_has_a_name_of_a_variant(name):
    experiment = find_experiment(name)
    tree = LAYOUTS["selflearn"].folders["variants"]
    configs = [experiment.Config()] + ([experiment.Config(critics=["ema_1e-3"])] if name == "self_critic" else [])
    for variant in [variant for config in configs for variant in experiment.variants(config)]:
        assert all(tree.named(f"{variant}{ending}") for ending in (".json", ".jsonl", ".json.part"))


def test_readme_and_pictures_are_known_by_their_content(tmp_path):
    train, learn = LAYOUTS["train"], LAYOUTS["selflearn"]
    (tmp_path / "README.md").write_text("# My notes")
    (tmp_path / "1_curve.png").write_bytes(b"\x89PNG mine")
    assert foreign(tmp_path, train).name == "README.md" and foreign(tmp_path, learn).name == "1_curve.png"
    remove(tmp_path, train)
    remove(tmp_path, learn)
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "README.md").write_text("# My notes on this metarlgym run")
    assert foreign(tmp_path, train).name == "README.md"
    (tmp_path / "README.md").write_text("---\ntags:\n- generated_from_trainer\n---\n")
    (tmp_path / "1_curve.png").write_bytes(b"\x89PNG" + PICTURE_MARK)
    remove(tmp_path, train)
    remove(tmp_path, learn)
    assert not list(tmp_path.iterdir())


def test_a_new_run_lives_beside_foreign_files(tmp_path):
    write(tmp_path, FOREIGN)
    before = tree(tmp_path)
    run = RunFolder.claim(tmp_path, "train", "new")
    run.commit(TEXTS)
    run.close()
    assert before.items() <= tree(tmp_path).items()


def test_overwrite_of_a_folder_without_a_run_is_refused(tmp_path):
    write(tmp_path / "thesis", {"chapter.tex": "years"})
    refused(tmp_path / "thesis", "holds no run to overwrite, but chapter.tex", mode="overwrite")


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_not_replaced_unasked_nor_by_another_kind(kind, tmp_path):
    finished(tmp_path / "run", kind)
    refused(tmp_path / "run", "holds another run: give another --output_dir, resume it with --resume", kind)
    other = next(name for name in KINDS if name != kind)
    for mode in ("new", "overwrite", "resume"):
        refused(tmp_path / "run", f"holds a run of `metarlgym {kind}`", other, mode)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "train"}', '{"kind": "train", "id": "../.."}'])
def test_a_damaged_mark_of_a_run_is_refused(content, tmp_path):
    write(tmp_path / "run", {"run.json": content, "metrics.jsonl": "x"})
    for mode in ("new", "overwrite", "resume"):
        refused(tmp_path / "run", "run.json is damaged, or not of a run", mode=mode)


def test_runs_of_earlier_versions_can_be_resumed_only(tmp_path):
    write(tmp_path / "run", {"config.yaml": "env_id: Doors-v0\n", "metrics.jsonl": "", "checkpoint-2/COMPLETE": "2\n"})
    refused(tmp_path / "run", "holds checkpoint-2", mode="overwrite")
    run = RunFolder.claim(tmp_path / "run", "train", "resume")
    assert run.resumed
    run.commit(TEXTS)
    run.close()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "running"


# ---------------------------------------------------------------------- inputs


@pytest.mark.parametrize("mode", ["new", "overwrite", "resume"])
def test_inputs_in_the_output_folder_are_refused(mode, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "own"
    finished(folder, "train")
    write(folder, {"final/config.json": "{}", "data.jsonl": "{}"})
    (tmp_path / "link").symlink_to(folder / "final")
    (tmp_path / "alias").symlink_to(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    final = folder / "final"
    for given in (final, folder, "runs/own/final", "runs/../runs/own/final", "~/runs/own", tmp_path / "link"):
        inputs = {"model_name_or_path": str(given)}
        refused(folder, "model_name_or_path=.* lies in output_dir", mode=mode, inputs=inputs)
    refused(tmp_path / "alias", "lies in output_dir", mode=mode, inputs={"model_name_or_path": str(final)})
    inputs = {"env_args": {"files": [{"train": str(folder / "data.jsonl")}]}}
    refused(folder, "env_args=.*data.jsonl' lies in", mode=mode, inputs=inputs)


def test_inputs_elsewhere_and_texts_that_are_no_paths_are_fine(tmp_path):
    write(tmp_path, {"model/config.json": "{}", "runs/x/old": ""})
    inputs = {
        "model": str(tmp_path / "model"),
        "env_args": {"text": "a\0b", "long": "x" * 9999, "n": 3, "home": "~no/"},
    }
    RunFolder.claim(tmp_path / "runs" / "x", "train", "new", inputs).close(ValueError())
    assert sorted(tree(tmp_path)) == ["model", "model/config.json", "runs", "runs/x", "runs/x/old"]


def test_a_run_goes_on_from_its_own_config(tmp_path):
    finished(tmp_path / "run", "train")
    inputs = {"config": str(tmp_path / "run" / "config.yaml")}
    refused(tmp_path / "run", "config=.* lies in output_dir", mode="overwrite", inputs=inputs)
    RunFolder.claim(tmp_path / "run", "train", "resume", inputs).close()


# ---------------------------------------------------------------------- places that cannot be run folders


def test_places_that_cannot_be_run_folders(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("/data/run1")
    refused(tmp_path / "file", "is a file: give another")
    refused(tmp_path / "file" / "a" / "b", "lies below .*file', which is a file")
    refused(tmp_path / "link", "is a link to '/data/run1', which does not exist: make it first")
    refused(tmp_path / "link" / "x", "lies below .*link', which is a link to")


@pytest.mark.parametrize("inside", ["", "a/b"])
def test_a_folder_that_may_not_be_written(inside, tmp_path, monkeypatch):
    folder = tmp_path / "locked"
    folder.mkdir()
    if os.getuid():
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    else:  # root may write everywhere
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    refused(folder / inside, f"cannot be written: permission denied for '{folder}'")
    folder.chmod(0o755)


def test_a_full_disk_at_the_claim_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(tmp_path / "a" / "b", r"cannot be written \(No space left on device\)")
    monkeypatch.undo()
    before = finished(tmp_path / "run", "train")
    synced = iter([None])  # the lock is written, run.json of the new run is not
    monkeypatch.setattr(os, "fsync", lambda _: next(synced, None) if synced.__length_hint__() else full())
    with pytest.raises(MetaRLGymError, match=r"run.json cannot be written \(No space left on device\)"):
        RunFolder.claim(tmp_path / "run", "train", "overwrite")
    assert tree(tmp_path / "run") == before


# ---------------------------------------------------------------------- starts that fail


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), None])
def test_a_failed_start_leaves_nothing(error, tmp_path):
    write(tmp_path, {"there/notes.md": "mine"})
    before = tree(tmp_path)
    for folder in (tmp_path / "a" / "b" / "run", tmp_path / "there"):
        run = RunFolder.claim(folder, "train", "new")
        write(folder, ["start/config.json", "trials.jsonl"])
        run.close(error)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_old_run_comes_back_when_the_start_fails(kind, tmp_path):
    before = finished(tmp_path / "run", kind)
    write(tmp_path / "run", FOREIGN)
    before = tree(tmp_path / "run")
    run = RunFolder.claim(tmp_path / "run", kind, "overwrite")
    write(tmp_path / "run", WRITTEN[kind][:2])
    assert tree(tmp_path / "run") != before
    run.close(ValueError())
    assert tree(tmp_path / "run") == before


def test_a_made_start_is_kept_by_a_stop_and_undone_by_an_error(tmp_path):
    for error, kept in ((KeyboardInterrupt(), True), (ValueError(), False)):
        folder = tmp_path / type(error).__name__
        run = RunFolder.claim(folder, "train", "new")
        write(folder, ["start/COMPLETE"])
        run.keep(TEXTS)
        run.close(error)
        assert folder.exists() == kept
    again = RunFolder.claim(tmp_path / "KeyboardInterrupt", "train", "resume")
    assert again.resumed and (tmp_path / "KeyboardInterrupt" / "start" / "COMPLETE").exists()
    again.close()


def test_a_resume_that_fails_changes_nothing(tmp_path):
    before = finished(tmp_path / "run", "train")
    RunFolder.claim(tmp_path / "run", "train", "resume").close(ValueError())
    assert tree(tmp_path / "run") == before


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def killed(folder, mode, moment):
    """A start in a process of its own, which dies as by `kill -9` at some moment."""
    pid = os.fork()
    if pid == 0:
        try:
            with pytest.MonkeyPatch.context() as patch:
                if moment == "moving":  # the third file of the old run
                    rename, moves = Path.rename, iter([None, None, die])
                    patch.setattr(Path, "rename", lambda self, to: (next(moves) or (lambda: rename(self, to)))())
                if moment == "last moved":
                    patch.setattr(RunFolder, "_save_state", die)
                if moment == "removing":  # the old run, at the end of the start
                    unlink, count = Path.unlink, iter(range(100))
                    dying = lambda path: ".replaced" in str(path) and next(count) == 1  # noqa: E731
                    patch.setattr(Path, "unlink", lambda self, **more: die() if dying(self) else unlink(self, **more))
                run = RunFolder.claim(folder, "train", mode)
                write(folder, {"start/config.json": "half"})
                if moment in ("made", "removing"):
                    run.keep({"config.yaml": "new"})
                if moment == "removing":
                    run.commit({"config.yaml": "new"})
                die()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["moving", "last moved", "starting"])
def test_after_a_kill_in_the_middle_of_replacing_the_old_run_comes_back(moment, tmp_path):
    before = finished(tmp_path / "run", "train")
    killed(tmp_path / "run", "overwrite", moment)
    assert tree(tmp_path / "run") != before
    with pytest.raises(ConfigError, match="holds another run"):
        RunFolder.claim(tmp_path / "run", "train", "new")
    assert tree(tmp_path / "run") == before
    killed(tmp_path / "run", "overwrite", moment)
    RunFolder.claim(tmp_path / "run", "train", "resume").close()
    assert tree(tmp_path / "run") == before


def test_after_a_kill_at_the_end_of_a_start_the_new_run_stands(tmp_path):
    for moment in ("made", "removing"):
        folder = tmp_path / moment
        finished(folder, "train")
        killed(folder, "overwrite", moment)
        run = RunFolder.claim(folder, "train", "resume")
        assert run.resumed and (folder / "config.yaml").read_text() == "new"
        assert (folder / "start" / "config.json").read_text() == "half" and not (folder / "metrics.jsonl").exists()
        run.commit(TEXTS)
        run.close()
        assert not list(folder.glob(".replaced-*"))


def test_the_old_run_waits_until_the_new_one_runs(tmp_path):
    folder = tmp_path / "run"
    before = finished(folder, "train")
    killed(folder, "overwrite", "made")
    with pytest.raises(ConfigError, match="holds another run"):  # which leaves the old one where it waits
        RunFolder.claim(folder, "train", "new")
    RunFolder.claim(folder, "train", "resume").close()
    assert list(folder.glob(".replaced-*/eval.json"))
    RunFolder.claim(folder, "train", "overwrite").close(ValueError())
    assert tree(folder) == before


@pytest.mark.parametrize("mode", ["new", "overwrite", "resume"])
def test_after_a_kill_in_the_middle_of_a_new_start_the_next_one_works(mode, tmp_path):
    folder = tmp_path / "run"
    write(folder, {"notes.md": "mine"} if mode != "overwrite" else {})
    killed(folder, "new", "starting")
    assert (folder / "start" / "config.json").exists()
    run = RunFolder.claim(folder, "train", mode)
    assert not run.resumed and not (folder / "start").exists()
    run.close(ValueError())
    assert [path.name for path in folder.iterdir()] == ([] if mode == "overwrite" else ["notes.md"])


# ---------------------------------------------------------------------- STOP


def test_a_leftover_stop_is_removed_at_a_start(tmp_path):
    finished(tmp_path / "run", "train")
    for folder, mode in ((tmp_path / "run", "resume"), (tmp_path / "new", "new")):
        folder.mkdir(exist_ok=True)
        (folder / "STOP").touch()
        run = RunFolder.claim(folder, "train", mode)
        assert not (folder / "STOP").exists()
        run.close()
    write(tmp_path / "mine", {"STOP": "an essay"})
    refused(tmp_path / "mine", "holds STOP")


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    replace_text(tmp_path / "a.json", "é")
    assert (tmp_path / "a.json").read_bytes() == "é".encode()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "a.json", "new")
    assert tree(tmp_path) == {"a.json": hashlib.sha256("é".encode()).hexdigest()}
