"""Confirmed scores of several runs side by side: intervals and differences, paired and not."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats
from test_compare import row, searched
from toy_run import play_confirmation, toy_run, toy_space

from search.cli import main
from search.compare import Searched, compare
from search.compare_lines import tables_of
from search.confirm import Settings
from search.record import read_trials
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space
from search.statistics import interval
from search.verdict import conclude


def confirmed(space: Space, scores: dict[int, list[float]], name: str = "a", seed: int = 10) -> Searched:
    """A run with trials 0 (preset habit) and 1, whose test scores over fresh seeds are `scores`."""
    trials = [
        row(0, 0.1, preset="habit", objective=0.5, stop_reason="completed"),
        row(1, 0.5, objective=0.9, stop_reason="completed"),
    ]
    for source, values in scores.items():
        for offset, value in enumerate(values):
            more = {"phase": "confirm", "source": source, "seed": seed + offset, "objective": value}
            more |= {"preset": "habit" if source == 0 else None, "stop_reason": "completed"}
            number = len(trials) - 2
            trials.append(row(number, 0.1, **more, **{"test.selection_accuracy": value}))
    return searched(space, trials, {0: [0.5], 1: [0.9]}, name)


def test_confirmed_scores_have_intervals_and_a_difference_between_runs(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    ours, theirs = [0.80, 0.81, 0.83, 0.82, 0.80], [0.70, 0.71, 0.69, 0.72, 0.70]
    a = confirmed(space, {0: [0.5, 0.51, 0.5, 0.52, 0.5], 1: theirs})
    b = confirmed(space, {0: [0.5, 0.51, 0.5, 0.52, 0.5], 1: ours}, "b", seed=50)
    facts = compare([a, b], "selection_accuracy", 1.0)
    assert facts["runs"][0]["confirmed"]["trial"] == 1
    score = facts["runs"][0]["confirmed"]["score"]
    assert score["mean"] == pytest.approx(0.704) and score["low"] < 0.704 < score["high"]
    assert not any("confirmed" in warning for warning in facts["warnings"])
    (difference,) = facts["confirmed"]
    oracle = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (difference["low"], difference["high"]) == (pytest.approx(oracle.low), pytest.approx(oracle.high))
    assert difference["mean"] == pytest.approx(0.812 - 0.704)


def test_scores_without_any_spread_have_no_interval(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    runs = [
        confirmed(space, {1: [value] * 3}, name, seed) for value, name, seed in ((0.7, "a", 0), (0.8, "b", 9))
    ]
    (difference,) = compare(runs, "selection_accuracy", 1.0)["confirmed"]
    assert (difference["low"], difference["high"], difference["sure"]) == (None, None, False)
    assert difference["mean"] == pytest.approx(0.1)


def test_runs_that_were_confirmed_with_the_same_seeds_are_compared_pair_by_pair(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    theirs = [0.70, 0.76, 0.73, 0.79, 0.71]  # the seeds differ by far more than the runs
    ours = [value + gain for value, gain in zip(theirs, (0.010, 0.012, 0.011, 0.009, 0.013), strict=True)]
    runs = [
        confirmed(space, {0: [0.5] * 5, 1: values}, name) for name, values in (("a", theirs), ("b", ours))
    ]
    (difference,) = compare(runs, "selection_accuracy", 1.0)["confirmed"]
    low, high = interval([0.010, 0.012, 0.011, 0.009, 0.013])
    assert difference["how"] == "paired" and difference["low"] > 0 and difference["sure"]
    assert (difference["low"], difference["high"]) == (pytest.approx(low), pytest.approx(high))


def test_two_confirmed_runs_are_compared_by_the_command(here: Path, capsys: pytest.CaptureFixture) -> None:
    names = []
    for gain in (0.2, 0.1):  # of trial 2 over the best preset, trial 1
        directory, space = toy_run(here / "runs")
        with directory.locked(), Run(directory, space, Settings(top=2, seeds=6)) as run:
            play_confirmation(
                run, lambda s, i, gain=gain: 0.6 + gain * (s == 2) + 0.01 * ((5 * i + s * i * i) % 7)
            )
            run.close()
        names.append(directory.name)
    assert main(["compare", *names, "--html", "page.html"]) == 0
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.endswith("  worse")]
    assert line.split()[:3] == ["B", "A", "-0.1"]
    assert "no run is confirmed" not in said and said.count("95 %") >= 2
    assert "(trial 2)" in said and f"A: {sentence_of(names[0])}" in said
    assert "Confirmed scores, test data" in (here / "page.html").read_text()


def sentence_of(name: str) -> str:
    directory = RunDirectory.open(name, Path("runs"))
    rows = read_trials(directory.path).to_pylist()
    search, confirm = ([row for row in rows if row["phase"] == phase] for phase in ("search", "confirm"))
    return conclude(search, confirm, Run.stored_space(directory))["sentence"]


def test_a_confirmation_that_is_not_finished_is_told_and_compared_with_nothing(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    a = confirmed(space, {0: [0.5, 0.51, 0.5], 1: [0.7, 0.71, 0.69]})
    for one in a.confirmed:
        one["state"], one["test.selection_accuracy"] = "RUNNING", None
    facts = compare([a, confirmed(space, {1: [0.7, 0.71]}, "b")], "selection_accuracy", 1.0)
    first = facts["runs"][0]["confirmed"]
    assert first["score"] is None and not first["complete"]
    assert facts["confirmed"] == []
    scores = next(table for table in tables_of(facts) if table.name == "scores")
    assert scores.rows[0][-1] == "not finished" and scores.rows[1][-1].startswith("0.7050, ")


def test_of_three_runs_the_intervals_against_the_first_share_the_error(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    base = {0: [0.5, 0.51, 0.5]}
    runs = [
        confirmed(space, {**base, 1: [0.70 + shift, 0.71 + shift, 0.69 + shift]}, name, seed)
        for name, shift, seed in (("a", 0.0, 10), ("b", 0.1, 20), ("c", 0.2, 30))
    ]
    b, _ = compare(runs, "selection_accuracy", 1.0)["confirmed"]
    first, second = [0.70, 0.71, 0.69], [0.80, 0.81, 0.79]
    oracle = stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.975)
    assert (b["low"], b["high"]) == (pytest.approx(oracle.low), pytest.approx(oracle.high))
