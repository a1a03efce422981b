import random
from collections import deque

import pytest

import metarlgym
from metarlgym import ConfigError, Episode, Task, make
from metarlgym.envs import sokoban_solver

ONE_PUSH = "#####\n#@$.#\n#####"
TWO_BOXES = "######\n#.  .#\n# $$ #\n# @  #\n#    #\n######"
TRAP = "#####\n#@--#\n#-$-#\n#--.#\n#####"
LAMER = {"size": 6, "boxes": 2, "turns": 7, "moves_per_turn": 3}


def brute_force(level):
    """Moves of the shortest solution, on a dictionary of cells."""
    cells = {(y, x): mark for y, row in enumerate(level.split("\n")) for x, mark in enumerate(row)}
    goals = {cell for cell, mark in cells.items() if mark in ".*+"}
    start = next(c for c, mark in cells.items() if mark in "@+"), frozenset(c for c, m in cells.items() if m in "$*")
    queue, seen = deque([(start, 0)]), {start}
    while queue:
        (player, boxes), moves = queue.popleft()
        if boxes == goals:
            return moves
        for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            to, behind = (player[0] + dy, player[1] + dx), (player[0] + 2 * dy, player[1] + 2 * dx)
            if cells[to] == "#" or (to in boxes and (cells[behind] == "#" or behind in boxes)):
                continue
            state = to, frozenset(behind if box == to else box for box in boxes)
            if state not in seen:
                seen.add(state)
                queue.append((state, moves + 1))
    return None


@pytest.mark.parametrize(("level", "moves"), [(ONE_PUSH, 1), (TWO_BOXES, 8), ("#####\n#@.$#\n#####", None)])
def test_moves_of_the_shortest_solution(level, moves):
    assert sokoban_solver.shortest(level) == moves
    assert brute_force(level) == moves


@pytest.mark.parametrize("kwargs", [{}, LAMER, {"size": 5, "turns": 3}, {"boxes": 2, "turns": 12}])
def test_made_levels_can_be_solved_in_time(kwargs):
    env = make("Sokoban-v0", **kwargs)
    most = env.max_turns * env.moves_per_turn
    levels = [env.new_task(i).params["level"] for i in range(6)]
    assert len(set(levels)) == len(levels)
    for level in levels:
        assert level.count("$") + level.count("*") == env.boxes
        assert {len(row) for row in level.split("\n")} == {env.size}
        moves = sokoban_solver.shortest(level)
        assert min(5, most) <= moves <= most
        assert moves == brute_force(level)
        board, position = sokoban_solver.read(level)
        assert "\n".join(board.draw(position)) == level


@pytest.mark.parametrize("style", ["chat", "terse"])
@pytest.mark.parametrize("kwargs", [{}, LAMER, {"level": TWO_BOXES, "turns": 8}])
def test_oracle_always_wins(harness, style, kwargs):
    trial = make("Sokoban-v0", episodes=2, style=style, **kwargs)
    for seed in range(4):
        assert harness.play(trial, trial.env.new_task(seed), seed)["returns"] == [1.0, 1.0]
    optimum = trial.optimal_returns()
    assert (optimum.total, optimum.curve, optimum.kind) == (2.0, (1.0, 1.0), "exact")
    assert trial.env.optimal_returns(3, 1).total == 2.0
    assert trial.no_memory_bound() == 2.0


def test_texts():
    env = make("Sokoban-v0", level=TRAP, turns=20)
    assert "20 turns of one move" in env.rules()
    first, _ = env.reset(seed=0)
    assert first == f"{TRAP}\nWhich move: [up], [down], [left] or [right]?"
    assert env.step("[up]").observation == f"Move up: blocked, you stay.\n{TRAP}"
    assert env.step("I go down.").observation == "Move down: you walk.\n#####\n#---#\n#@$-#\n#--.#\n#####"
    assert env.step("[right]").observation == "Move right: you push a box.\n#####\n#---#\n#-@$#\n#--.#\n#####"
    assert env.step("[right]").observation.startswith("Move right: blocked, you stay.")
    step = env.step("[jump]")
    assert step.observation.startswith("That is no move: the turn is lost. Reply ")
    assert (step.reward, step.info["valid"]) == (0.0, False)
    env.step("[up]")
    env.step("[right]")
    step = env.step("[down]")
    text = "Move down: you push a box. All boxes are on goals: 1 point.\n#####\n#---#\n#--@#\n#--*#\n#####"
    assert step == (text, 1.0, True, False, {"valid": True, "success": True})


def test_terse_texts():
    env = make("Sokoban-v0", level=TRAP, style="terse", turns=20)
    assert env.reset(seed=0)[0] == "@ - - | - $ - | - - ."
    texts = [env.step(move).observation for move in ("up", "down", "right", "jump", "up", "right", "down")]
    assert texts == ["x1y1 wall", "x1y2", "x2y2 push", "invalid", "x2y1", "x3y1", "x3y2 push solved"]


def test_many_moves_in_a_turn():
    env = make("Sokoban-v0", level=TRAP, turns=3, moves_per_turn=3)
    assert 'with 1 to 3 moves in brackets, for example "[up down left]"' in env.rules()
    env.reset(seed=0)
    assert not env.step("[up up up up]").info["valid"]
    step = env.step("[down, right, up]")
    assert step.observation.startswith("Move down: you walk. Move right: you push a box. Move up: you walk.\n")
    step = env.step("[right down down]")
    assert step.observation.startswith("Move right: you walk. Move down: you push a box. All boxes are on goals")
    assert step.terminated
    assert len(env.legal_actions()) == len(set(env.legal_actions())) == 4 + 16 + 64
    assert make("Sokoban-v0", moves_per_turn=9).legal_actions() is None
    rng = random.Random(0)
    assert all(env.random_action(rng) in env.legal_actions() for _ in range(50))


def test_oracle_goes_on_from_anywhere():
    env = make("Sokoban-v0", level=TRAP, turns=20)
    trial = make("Sokoban-v0", level=TRAP, turns=20, episodes=1)
    trial.reset(options={"task": Task(env.env_id, {"level": TRAP}), "episode_seed": 0})
    for action in ("[right]", "no move", "[left]"):
        trial.step(action)
    while trial.live:
        trial.step(trial.oracle(trial.history))
    assert trial.result()["success"]
    lost = "#####\n#$@-#\n#---#\n#--.#\n#####\nWhich move?"
    assert env.oracle([Episode(lost)]) == "[up]"


def test_render():
    env = metarlgym.make("Sokoban-v0", level=TRAP)
    env.reset(seed=0)
    assert env.render() is None
    env.render_mode = "ansi"
    env.step("[down]")
    assert env.render() == "#####\n#---#\n#@$-#\n#--.#\n#####"


def test_open_and_ragged_maps_get_walls():
    board, position = sokoban_solver.read("@$.\n--")
    assert board.draw(position) == ["#####", "#@$.#", "#--##", "#####"]


def test_random_policy(harness):
    rng = random.Random(0)
    trial = make("Sokoban-v0", level=ONE_PUSH, turns=1, episodes=3)
    task = Task(trial.env_id, {"level": ONE_PUSH})
    runs = [harness.play(trial, task, i, lambda t: t.random_action(rng))["returns"] for i in range(300)]
    assert sum(map(sum, runs)) / 900 == pytest.approx(1 / 4, abs=4 * 0.0145)


@pytest.mark.parametrize("kwargs", [{}, LAMER])
def test_contract(harness, kwargs):
    harness.check_contract("Sokoban-v0", lambda params: "no secret", **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"size": 4}, "size=4"),
        ({"boxes": 0}, "boxes=0"),
        ({"turns": 0}, "turns=0"),
        ({"moves_per_turn": 0}, "moves_per_turn=0"),
        ({"size": 12, "boxes": 4}, "size=12, boxes=4"),
        ({"size": 5, "boxes": 8}, "size=5, boxes=8"),
        ({"level": TWO_BOXES, "turns": 7}, "needs 8 moves"),
        ({"level": "#####\n#@.$#\n#####"}, "no solution"),
        ({"level": "#####\n#@-.#\n#####"}, "0 boxes"),
        ({"level": "#####\n#@x.#\n#####"}, "'x'"),
        ({"level": TRAP, "size": 5}, "size=5"),
    ],
)
def test_bad_arguments(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        make("Sokoban-v0", **kwargs)
