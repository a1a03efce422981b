"""Compiled functions survive pickling, also into a fresh process."""

import pickle
import subprocess
import sys

from metarlgym.sequences.predictors import kt
from metarlgym.sequences.sources.compiled import Compiled, compiled


@compiled()
def plus_one(x):
    return x + 1


@compiled()
def twice_plus_one(x):
    return 2 * plus_one(x)


def test_pickled_by_name():
    assert isinstance(kt._predictions, Compiled)
    assert pickle.loads(pickle.dumps(kt._predictions)) is kt._predictions


def test_a_function_that_another_compiled_one_has_called():
    function = plus_one
    assert twice_plus_one(1) == 4
    assert isinstance(function, Compiled) and plus_one is not function  # numba's dispatcher has taken its place
    assert pickle.loads(pickle.dumps(function))(1) == function(1) == 2


def test_loaded_in_a_fresh_process(tmp_path):
    (tmp_path / "function.pkl").write_bytes(pickle.dumps(kt._predictions))
    code = (
        "import pickle, sys, numpy as np\n"
        "function, out = pickle.load(open(sys.argv[1], 'rb')), np.empty((1, 2, 2))\n"
        "function(np.array([[1, 0]]), np.zeros((1, 2), bool), 0.5, 0, out)\n"
        "print(out.tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "function.pkl")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.stdout == "[[[0.5, 0.5], [0.25, 0.75]]]\n", run.stderr
