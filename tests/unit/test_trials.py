"""Search spaces, which point comes next, and the journal of a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial, TrialState

from factorlm.errors import UserError
from factorlm.sweeps.sampling import propose
from factorlm.sweeps.space import contains, describe, grid, make_space, overrides
from factorlm.sweeps.trials import Outcome, Plan, Trials


def space(*lines: str) -> dict[str, Any]:
    return make_space(OverridesParser.create().parse_overrides(list(lines)))


LR = "lr=tag(log,interval(1e-4,1))"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=0.003,0.01", {"choices": [0.003, 0.01]}),
        ("a=choice(fm,'x y',true,[1,2])", {"choices": ["fm", "x\\ y", True, "[1,2]"]}),
        ("a=null,7", {"choices": ["null", 7]}),
        ("a=range(1,10,4)", {"low": 1, "high": 9, "step": 4, "log": False}),
        ("a=range(0,1,0.25)", {"low": 0.0, "high": 0.75, "step": 0.25, "log": False}),
        ("a=interval(1,5)", {"low": 1.0, "high": 5.0, "step": None, "log": False}),
        ("a=int(interval(1,5))", {"low": 1, "high": 5, "step": 1, "log": False}),
        (LR.replace("lr", "a"), {"low": 1e-4, "high": 1.0, "step": None, "log": True}),
    ],
)
def test_hydras_grammar_is_the_space(line: str, expected: dict[str, Any]) -> None:
    (distribution,) = space(line).values()
    assert describe(distribution) == expected


def test_a_grid_is_what_hydras_own_sweeper_runs() -> None:
    points = grid(space("b=x,null", "+a=range(1,4)"))
    assert [overrides(point) for point in points] == [[f"b={b}", f"+a={a}"] for b in ("x", "null") for a in (1, 2, 3)]
    with pytest.raises(UserError, match="lr: sampler=grid tries every value"):
        grid(space(LR))


@pytest.mark.parametrize("line", ["a=interval(2,1)", "a=tag(log,interval(0,1))", "a=range(3,1)"])
def test_an_empty_space_is_refused(line: str) -> None:
    with pytest.raises(UserError, match="a="):
        space(line)


def test_contains() -> None:
    (choice,), (interval,) = space("a=x,1").values(), space(LR).values()
    assert contains(choice, 1)
    assert not contains(choice, 2)
    assert contains(interval, 0.5)
    assert not contains(interval, 2.0)
    assert not contains(interval, "null")


PLAN = Plan("study/arm", "key", "tpe", 3, "valid/ndcg@10", None, False, space(LR, "k=8,16,32"))


def value(trial: FrozenTrial) -> float:
    return -abs(trial.params["lr"] - 0.02) + trial.params["k"] / 1000


def run(trials: Trials, wanted: int) -> None:
    for trial in trials.running():
        trials.end(trial.number, Outcome(TrialState.COMPLETE, [value(trial)], 1.0))
    while len(trials.all) < wanted and (trial := trials.next()):
        trials.end(trial.number, Outcome(TrialState.COMPLETE, [value(trial)], 1.0))


def rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "sweep.json").read_text())["trials"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_a_sweep_reopened_at_every_trial_is_the_undisturbed_one(tmp_path: Path, sampler: Any) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    plan = replace(
        PLAN, sampler=sampler, space=space("lr=range(1,9)", "k=8,16,32") if sampler == "grid" else PLAN.space
    )
    for folder in (one, other):
        folder.mkdir()
    run(Trials(one, plan), 20)
    for wanted in range(1, 21):
        run(Trials(other, plan), wanted - 1)
        Trials(other, plan).next()  # and then it is killed
    run(Trials(other, plan), 20)
    assert rows(one) == rows(other)
    assert [row["number"] for row in rows(one)] == list(range(20))
    assert len({str(row["params"]) for row in rows(one)}) > 15


def test_no_journal_line_leaves_half_a_trial(tmp_path: Path) -> None:
    """Cut the journal after each of its lines: what is found goes on to the same trials."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    run(Trials(whole, PLAN), 13)
    lines = (whole / "journal.log").read_text().splitlines(keepends=True)
    for length in range(0, len(lines), 3):
        (cut / "journal.log").write_text("".join(lines[:length]))
        run(Trials(cut, PLAN), 13)
        assert rows(cut) == rows(whole)


def test_tpe_learns_and_seeds_differ() -> None:
    def points(seed: int, sampler: Any = "tpe") -> list[FrozenTrial]:
        trials: list[FrozenTrial] = []
        for number in range(40):
            trial = propose(sampler, seed, PLAN.space, ["maximize"], trials)
            trial.number, trial.values, trial.state = number, [value(trial)], TrialState.COMPLETE
            trial.datetime_complete = trial.datetime_start
            trials.append(trial)
        return trials

    def late(trials: Sequence[FrozenTrial]) -> float:
        return median(trial.values[0] for trial in trials[20:])

    assert points(1)[0].params != points(2)[0].params
    assert late(points(1)) > late(points(1, "random"))


def test_points_to_start_from_come_first_and_once(tmp_path: Path) -> None:
    start = [{"k": 16, "lr": 2}]
    trials = Trials(tmp_path, replace(PLAN, sampler="grid", space=space("k=8,16", "lr=1,2"), start=start))
    run(trials, 10)
    assert [trial.params for trial in trials.all] == [
        {"k": 16, "lr": 2}, {"k": 8, "lr": 1}, {"k": 8, "lr": 2}, {"k": 16, "lr": 1},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "it has seed=3, this one 4"),
        ({"space": space(LR, "k=8,16")}, "it searches k in {'choices': [8, 16, 32]}, this one in {'choices': [8, 16]}"),
        ({"run": "other"}, "its config, data or code differ"),
    ],
)
def test_a_folder_holds_one_sweep(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    Trials(tmp_path, PLAN)
    with pytest.raises(UserError) as caught:
        Trials(tmp_path, replace(PLAN, **change))
    assert message in str(caught.value)


def test_two_objectives_keep_the_front(tmp_path: Path) -> None:
    trials = Trials(tmp_path, replace(PLAN, sampler="nsga2", cost="parameters"))
    for number in range(30):
        trial = trials.next()
        assert trial is not None
        trials.end(number, Outcome(TrialState.COMPLETE, [value(trial), float(trial.params["k"])], 1.0))
    front = [trial.values for trial in trials.best()]
    assert front == sorted(front, reverse=True)
    assert len(front) >= 2
    assert trials.table()["directions"] == ["maximize", "minimize"]
