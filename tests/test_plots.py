"""What the figures of a report are drawn from, and that any words can be drawn."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from search import curve_plots, drawing, plots, region_plots
from search.curve_plots import BEST_CURVES, MOST_CURVES, OUTCOMES, Curves, curves_data, outcome, spending_data
from search.plots import progress_data, standing_data
from search.report_tables import edge_remarks, parallel_sentence
from search.space import Space, load_space

BEGAN = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def space() -> Space:
    return load_space("beta_vae", trials=40, epochs=10)


def trial(number: int, objective: float | None, **changes: Any) -> dict[str, Any]:
    row = {
        "trial": number, "state": "COMPLETE", "stop_reason": "completed", "preset": None,
        "objective": objective, "epochs": 10, "best_epoch": 10,
        "finished_at": BEGAN + timedelta(seconds=number),
    }  # fmt: skip
    return {**row, **changes}


# ---------------------------------------------------------------------- best so far


def test_the_best_so_far_follows_the_order_in_which_trials_ended(space) -> None:
    late = BEGAN + timedelta(seconds=60)
    data = progress_data([trial(0, 0.3, finished_at=late), trial(1, 0.1), trial(2, 0.2)], space)
    assert data.best.tolist() == [0.1, 0.2, 0.3] and data.epochs.tolist() == [10, 20, 30]
    assert "trial 0 reached it, the 3rd of 3 to end, after 30 of 30 epochs" in data.sentence


def test_a_pruned_trials_value_counts_only_while_none_is_complete(space) -> None:
    pruned = trial(0, 0.9, state="PRUNED", stop_reason="successive_halving", epochs=2)
    assert progress_data([pruned], space).best.tolist() == [0.9]
    data = progress_data([pruned, trial(1, 0.2)], space)
    assert np.isnan(data.best[0]) and data.best[1] == 0.2


def test_trials_that_run_or_failed_are_no_results(space) -> None:
    running = trial(1, 0.8, state="RUNNING", finished_at=None)
    failed = trial(2, None, state="FAIL", stop_reason="raised", epochs=0)
    data = progress_data([trial(0, 0.1), running, failed], space)
    assert data.best.tolist() == [0.1, 0.1]
    assert progress_data([failed], space).sentence == "None of the 1 trials that ended has a value."
    assert progress_data([], space).sentence == "No trial has a value yet."


def test_most_of_the_gain_is_placed_in_the_epochs(space) -> None:
    data = progress_data([trial(0, 0.1), trial(1, 0.5), trial(2, 0.51), trial(3, 0.4)], space)
    assert "nine tenths of that gain were there after 20 (50 %)" in data.epochs_sentence


def test_a_single_configuration_is_no_comparison() -> None:
    best = {"trial": 0, "preset": None, "value": 0.3, "collapsed": []}
    summary = {
        "direction": "maximize",
        "objective": "x",
        "best": best,
        "presets": [],
        "gain": None,
        "chance": None,
    }
    assert standing_data(summary, None) is None
    assert standing_data({**summary, "best": None}, None) is None


# ---------------------------------------------------------------------- outcomes and curves


def test_each_reason_has_its_look_and_no_two_share_colour_and_dash() -> None:
    looks = [(one.color, str(one.dash)) for name, one in OUTCOMES.items() if name != "median"]
    looks += [
        (one.color, str(one.dash)) for one in (curve_plots.FAILED, curve_plots.RUNNING, curve_plots.ELSE)
    ]
    assert len(set(looks)) == len(looks)
    assert outcome(trial(0, 0.1, state="PRUNED", stop_reason="collapse:mode")) is OUTCOMES["collapse"]
    assert outcome(trial(0, 0.1, stop_reason="all(plateau+time)")) is curve_plots.ELSE
    assert outcome(trial(0, None, state="RUNNING", stop_reason=None)) is curve_plots.RUNNING


def test_the_colours_differ_in_brightness_where_they_stand_for_different_ends() -> None:
    grey = {
        name: np.dot(to_rgb(OUTCOMES[name].color), (0.299, 0.587, 0.114)) for name in ("completed", "plateau")
    }
    assert abs(grey["completed"] - grey["plateau"]) > 0.15


def test_spent_epochs_add_up(space) -> None:
    rows = [
        trial(0, 0.1),
        trial(1, 0.1, epochs=4, state="PRUNED", stop_reason="successive_halving"),
        trial(2, 0.2),
    ]
    data = spending_data(rows, space)
    assert [(part[0].name, part[1], part[2]) for part in data.parts] == [
        ("whole budget", 2, 20),
        ("pruned, behind the others", 1, 4),
    ]
    assert data.sentence.startswith("24 epochs were spent, 80 % of the 30 that these 3 trials")
    assert spending_data([trial(0, None, epochs=0, state="RUNNING")], space) is None


def test_of_many_curves_the_best_the_presets_and_each_outcome_stay(space) -> None:
    random = np.random.default_rng(0)
    rows = [trial(n, float(random.uniform())) for n in range(3000)]
    rows[17] |= {"preset": "habit"}
    rows[99] |= {"state": "PRUNED", "stop_reason": "diverged"}
    numbers = np.repeat(np.arange(3000), 10)
    curves = Curves(numbers, np.tile(np.arange(1, 11), 3000), random.uniform(size=30_000))
    best = max(rows, key=lambda row: row["objective"])["trial"]
    data = curves_data(rows, curves, space, best)
    shown = {line[0] for line in data.lines}
    assert len(shown) <= MOST_CURVES + 5 and data.total == 3000
    first = sorted(rows, key=lambda row: -row["objective"])[:BEST_CURVES]
    assert {17, 99, best, *(row["trial"] for row in first)} <= shown
    number, _, epochs, values = data.lines[0]
    assert epochs.tolist() == list(range(1, 11)) and len(values) == 10
    assert np.array_equal(values, curves.value[numbers == number])


# ---------------------------------------------------------------------- settings


def spec(**changes: Any) -> dict[str, Any]:
    axes = [
        {"name": "x", "column": None, "kind": "linear", "low": 0.0, "high": 1.0},
        {"name": "lr", "column": "knob.lr", "kind": "log", "low": 1e-4, "high": 1.0},
        {"name": "word", "column": "knob.word", "kind": "words", "words": ["a", "b"]},
    ]
    score = [n / 10 for n in range(10)]
    values = [score, [1e-4] * 7 + [0.1, 0.2, 0.3], ["a"] * 7 + ["b"] * 3]
    return {"axes": axes, "values": values, "score": score, "maximize": True, **changes}


def test_what_the_best_share_is_named() -> None:
    assert parallel_sentence(spec()) == "The best 3 of 10 trials share: lr 0.1 to 0.3; word b."
    said = parallel_sentence(spec(maximize=False))
    assert said == "The best 3 of 10 trials share: lr 0.0001 to 0.0001; word a."
    few = parallel_sentence(spec(score=[0.1] + [None] * 9))
    assert few == "Only 1 of 10 trials have a value: too few to see what is shared."


def test_a_word_that_nearly_all_trials_have_is_no_news() -> None:
    values = spec()["values"]
    assert "word" not in parallel_sentence(spec(values=[*values[:2], ["b"] * 10]))


def test_a_value_out_of_force_is_not_shared() -> None:
    values = spec()["values"]
    assert "lr" not in parallel_sentence(spec(values=[values[0], [None] * 10, values[2]]))


def test_a_setting_at_the_end_of_its_range_is_told_unless_no_space_can_go_further(space) -> None:
    said = edge_remarks(space, {"optim.lr": 1.01e-4, "kl.free_bits": 0.0, "kl.weight": 0.1}, "trial 3")
    assert said == [
        "optim.lr of trial 3 is 0.000101, at the lower end of what was searched (0.0001 to 0.003 (log)): "
        "a wider range may hold better."
    ]


def test_places_on_an_axis_are_shares_of_its_range_on_its_own_scale() -> None:
    _, log, words = spec()["axes"]
    assert region_plots.share(log, 1e-2) == pytest.approx(0.5)
    assert (region_plots.share(words, "a"), region_plots.share(words, "b")) == (0.0, 1.0)
    assert np.isnan(region_plots.share(words, "c")) and np.isnan(region_plots.share(log, None))


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "text", ["$\\frac{", "a$b$c", "\\$", "\U0001f600 \u4e2d\u6587", "tab\tline\nnew", "%", "_^{}"]
)
def test_any_words_can_be_drawn_and_none_is_read_as_a_formula(text: str) -> None:
    figure = drawing.new_figure(1.5)
    axes = drawing.framed(figure.subplots())
    axes.plot([0, 1], [0, 1], label=drawing.literal(text))
    drawing.label_x(axes, text)
    drawing.label_y(axes, text)
    drawing.legend(axes)
    picture = Image.open(io.BytesIO(drawing.png(figure)))  # a warning would be an error here
    assert picture.size == (960, 300)


def test_long_words_lose_their_middle() -> None:
    short = drawing.shortened("a" * 50 + "b" * 50, 20)
    assert len(short) == 20 and short.startswith("aaa") and short.endswith("bbb") and "…" in short
    assert drawing.shortened(" one \n two ") == "one two"


def test_the_data_of_a_drawing_is_not_changed_by_drawing_it(space) -> None:
    data = progress_data([trial(0, 0.1), trial(1, 0.3)], space, chance=0.05)
    before = data.values.copy(), data.best.copy()
    drawing.png(plots.draw_progress(data, "trials"))
    assert np.array_equal(before[0], data.values) and np.array_equal(before[1], data.best)
