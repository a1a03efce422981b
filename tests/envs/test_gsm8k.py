"""GSM8K: feedback, the data's own splits, data that do not fit."""

import ast
import json
import operator
import re
import subprocess
import sys
from fractions import Fraction

import pytest

from metarlgym import ConfigError, Task, TaskGroup, check_env, make
from metarlgym.envs.gsm8k_data import load_problems

QUESTION = "Two boxes hold 9 pens each. How many pens are there?"


def attempt(action, answer="18", **kwargs):
    env = make("GSM8K-v0", **kwargs)
    env.reset(options={"task": Task("GSM8K-v0", {"question": QUESTION, "answer": answer}), "episode_seed": 0})
    return env.step(action)


# ---------------------------------------------------------------------- feedback


@pytest.mark.parametrize(
    ("feedback", "right", "high", "low", "invalid"),
    [
        ("verdict", "right", "wrong", "wrong", "invalid"),
        ("direction", "right", "high", "low", "invalid"),
        ("none", "", "", "", ""),
    ],
)
def test_feedback(feedback, right, high, low, invalid):
    actions = {r"\boxed{18}": right, "19": high, "-3": low, "no idea": invalid}
    for action, word in actions.items():
        assert attempt(action, feedback=feedback, style="terse").observation == word
        text = attempt(action, feedback=feedback).observation
        assert "18" not in text or word == right  # the answer that was given, not the one that was not
        assert {"right": "is right", "invalid": "No answer found"}.get(word, word) in text
        assert bool(text) is bool(word)


def test_the_direction_of_a_percentage_is_that_of_its_figure():
    assert "too high" in attempt("60%", "50", feedback="direction").observation
    assert "too low" in attempt("40%", "0.5", feedback="direction").observation


def test_a_lost_trial_never_tells_the_answer():
    for feedback in ("verdict", "direction", "none"):
        trial = make("GSM8K-v0", episodes=3, feedback=feedback)
        task = Task("GSM8K-v0", {"question": QUESTION, "answer": "7141"})
        texts = [trial.rules(), trial.reset(options={"task": task, "episode_seed": 0})[0]]
        texts += [trial.step(action).observation for action in (r"\boxed{1}", "nothing", r"\boxed{9999}")]
        assert not trial.live
        assert "7141" not in "".join(texts)
        assert all(QUESTION in text for text in texts[1:4])  # also without memory of earlier episodes


def test_attempts_at_one_problem():
    trial = make("GSM8K-v0", episodes=3)
    task = Task("GSM8K-v0", {"question": QUESTION, "answer": "18"})
    trial.reset(options={"task": task, "episode_seed": 0})
    assert [trial.step(action).reward for action in ("17", "18", "18")] == [0.0, 1.0, 1.0]
    trial = make("GSM8K-v0", episodes=3, stop_on_success=True)
    trial.reset(options={"task": task, "episode_seed": 0})
    trial.step("18")
    assert not trial.live


def test_the_optimum_is_a_bound():
    optimum = make("GSM8K-v0", episodes=3, free_shots=1).optimal_returns()
    assert (optimum.total, optimum.curve, optimum.kind) == (2.0, (1.0, 1.0, 1.0), "upper_bound")


def test_contract(harness):
    harness.check_contract("GSM8K-v0", lambda params: "\0")
    check_env("GSM8K-v0")


@pytest.mark.parametrize("kwargs", [{"feedback": "hint"}, {"data": ""}, {"data": 3}])
def test_bad_arguments(kwargs):
    with pytest.raises(ConfigError, match=next(iter(kwargs))):
        make("GSM8K-v0", **kwargs)


def test_a_task_without_a_number_is_refused():
    with pytest.raises(ConfigError, match="answer='many'"):
        attempt("18", "many")


# ---------------------------------------------------------------------- data

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression):
    def value(node):
        if isinstance(node, ast.UnaryOp):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        return Fraction(str(node.value))

    return value(ast.parse(expression, mode="eval").body)


def test_bundled_problems_are_calculated_rightly():
    import metarlgym.envs

    for split, count in (("train", 40), ("test", 32)):
        path = f"{metarlgym.envs.__path__[0]}/data/gsm8k/{split}.jsonl"
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            rows = [json.loads(line) for line in file]
        assert len(rows) == count
        for row in rows:
            steps = re.findall(r"<<([^=]*)=([^>]*)>>([0-9.-]*[0-9])", row["answer"])
            assert steps, row
            for expression, value, shown in steps:
                assert calculate(expression) == Fraction(value) == Fraction(shown), row
            assert Fraction(row["answer"].rpartition("#### ")[2].replace(",", "")) == Fraction(steps[-1][1]), row


def test_the_splits_are_those_of_the_data():
    group = TaskGroup("GSM8K-v0")
    train, held_out = group.tasks(40), group.tasks(32, "eval")
    problems = load_problems("bundled")
    assert {task.params["question"] for task in train} == {problem.question for problem in problems.train}
    assert {task.params["question"] for task in held_out} == {problem.question for problem in problems.test}
    assert not {task.key for task in train} & {task.key for task in held_out}
    with pytest.raises(ConfigError, match="eval_trials=33: GSM8K-v0 has only 32 held-out tasks, the eval split of its"):
        group.tasks(33, "eval")


def test_sampled_tasks_are_train_tasks():
    env = make("GSM8K-v0")
    questions = {problem.question for problem in load_problems("bundled").train}
    drawn = {env.new_task("sample", i).params["question"] for i in range(600)}
    assert drawn == questions


def rows(first, last):
    return [
        {"question": f"How much is {n:,} and {n:,}?", "answer": f"It is {n}+{n}.\n#### {2 * n:,}"}
        for n in range(first, last)
    ]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list(content).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What `datasets` keeps of these files goes with them."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.mark.parametrize("place", ["{}.jsonl", "{}-00000-of-00001.parquet", "main/{}-00000-of-00001.parquet"])
def test_a_local_folder(folder, place):
    write(folder / place.format("train"), rows(990, 1010) + rows(990, 993))
    write(folder / place.format("test"), rows(1005, 1012))
    group = TaskGroup("GSM8K-v0", {"data": str(folder)})
    assert {task.params["answer"] for task in group.tasks(15)} == {str(2 * n) for n in range(990, 1005)}
    assert {task.params["answer"] for task in group.tasks(7, "eval")} == {str(2 * n) for n in range(1005, 1012)}
    assert len(list(group.env.all_tasks())) == 15  # of equal questions one, and none of the test split


def test_a_single_file_has_one_split(folder):
    write(folder / "mine.jsonl", rows(0, 20))
    group = TaskGroup("GSM8K-v0", {"data": str(folder / "mine.jsonl")})
    assert group.env.held_out_tasks() is None
    assert len(group.tasks(4, "eval")) == 4
    with pytest.raises(ConfigError, match="20 in all, one in 5 held out"):
        group.tasks(5, "eval")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"question": "1+1?", "solution": "#### 2"}], r"row 1 of train has no text in column 'answer' \(its columns:"),
        ([{"question": 3, "answer": "#### 2"}], "row 1 of train has no text in column 'question'"),
        ([*rows(0, 2), {"question": "1+1?", "answer": "It is 2."}], "row 3 of train has no answer after '####'"),
        ([*rows(0, 2), {"question": "1+1?", "answer": "#### two"}], r"row 3 of train .*'two'.*write '#### 42'"),
        ([], r"cannot be loaded \(no rows\)"),
    ],
)
def test_data_of_another_form(folder, content, message):
    write(folder / "train.jsonl", content)
    with pytest.raises(ConfigError, match=message) as raised:
        make("GSM8K-v0", data=str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("./nowhere", "no such file or folder"),
        ("nowhere.jsonl", "no such file or folder"),
        ("nobody/has-this", "cannot be loaded"),
    ],
)
def test_missing_data(data, message):
    with pytest.raises(ConfigError, match=re.escape(f"data={data!r}") + f".*{message}") as raised:
        make("GSM8K-v0", data=data)
    assert "\n" not in str(raised.value)


def test_folders_and_files_of_another_kind(folder):
    with pytest.raises(ConfigError, match=r"no file train\*\.parquet"):
        make("GSM8K-v0", data=str(folder))
    (folder / "train.csv").write_text("question,answer\n")
    with pytest.raises(ConfigError, match="unknown kind"):
        make("GSM8K-v0", data=str(folder / "train.csv"))
    (folder / "train.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="not a Parquet file that can be read"):
        make("GSM8K-v0", data=str(folder))


ROW = b'{"question": "q", "answer": "#### 1"}'
BROKEN = {
    "cut": (
        "jsonl",
        ROW + b'\n{"question": "q", ',
        "is not JSON (Expecting property name enclosed in double quotes in line 2)",
    ),
    "number": ("jsonl", ROW + b"\n5\n", "holds '5' in line 2, which is not a row"),
    "latin": (
        "jsonl",
        b'{"question": "\xff", "answer": "#### 1"}\n',
        "is not UTF-8 (invalid start byte 0xff at byte 14)",
    ),
    "numbers": ("json", b"[1, 2]", "holds '1' in line 1, which is not a row"),
    "deep": ("json", b"[" * 100_000, "is not JSON (nested too deeply in line 1)"),
    "parquet": ("parquet", b"PARX", "is not a Parquet file that can be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_the_cause_in_one_line(name, tmp_path, capfd):
    ending, content, cause = BROKEN[name]
    file = tmp_path / f"train.{ending}"
    file.write_bytes(content)
    for data in (tmp_path, file):
        with pytest.raises(ConfigError) as raised:
            make("GSM8K-v0", data=str(data))
        assert f"data={str(data)!r}: {file} {cause}" in str(raised.value) and "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_texts_of_parquet_that_are_not_utf_8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    question = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"]).buffers())
    pq.write_table(pa.table({"question": question, "answer": ["#### 1"]}), tmp_path / "train.parquet")
    with pytest.raises(ConfigError, match="a text of train is not UTF-8"):
        make("GSM8K-v0", data=str(tmp_path))


@pytest.mark.parametrize("content", [b"[%b]", b"%b\n\n", b"%b%b", b"\n [%b,\n%b]\n"])
def test_every_form_of_json_rows_is_read_without_a_word(content, tmp_path, capfd):
    (tmp_path / "train.json").write_bytes(content.replace(b"%b", ROW))
    make("GSM8K-v0", data=str(tmp_path))
    assert capfd.readouterr() == ("", "")


def test_data_are_read_once_and_nothing_heavy_is_imported():
    code = (
        "import sys, metarlgym; from metarlgym.envs.gsm8k_data import load_problems as load; "
        "[metarlgym.make('GSM8K-v0').reset(seed=i) for i in range(50)]; "
        "print(load.cache_info().misses, *({'math_verify', 'sympy', 'datasets', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"
