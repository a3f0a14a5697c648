"""The tables of the known experiments: figures, checks and expectations worked by hand; the YAML section."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy_run import SPACE, play_confirmation, toy_run

from search.confirm import Settings
from search.errors import BadSpace
from search.expectations import HELD, NOT_ENOUGH, NOT_HELD
from search.experiment_cells import fluctuation, rise
from search.experiment_tables import experiment_of
from search.experiments import experiment_values
from search.run import Run
from search.space import Space, load_space, shipped_spaces
from search.statistics import interval

BY_PRESET = {
    "compare": "preset",
    "metrics": ["selection_accuracy", "error"],
    "checks": [
        {"says": "accurate", "value": "selection_accuracy", "between": [0.6, 0.8]},
        {"says": "monotone", "rise": "train.loss", "at_most": 0.1},
    ],
    "expect": [
        {
            "says": "habit is behind",
            "value": "selection_accuracy",
            "rises": {"preset": ["habit", "bold [red]"]},
        },
        {"says": "bold errs", "value": "error", "at_least": 0.5, "where": {"preset": "bold [red]"}},
    ],
}
GRID = {
    "static": {"width": {"choice": [4, 8]}},
    "knobs": {"penalty.weight": {"choice": [0.0, 1.0, 10.0]}},
    "start_from": [],
    "search": {"sampler": "grid"},
    "budget": {"trials": 6, "epochs": 4},
}


def space_with(folder: Path, experiment: Any, **changes: Any) -> Space:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({**SPACE, **changes, "experiment": experiment}, sort_keys=False))
    return load_space(path)


def grid(folder: Path, experiment: Any, **changes: Any) -> Space:
    return space_with(folder, {"metrics": ["selection_accuracy", "error"], **experiment}, **GRID, **changes)


def row(trial: int, accuracy: float, **more: Any) -> dict[str, Any]:
    """A row of trials.parquet of a trial that had its budget of 4 epochs."""
    told = {"phase": "search", "state": "COMPLETE", "epochs": 4, "seed": 0, "preset": None}
    figures = {"final.val.selection_accuracy": accuracy, "final.val.error": 1 - accuracy}
    return {"trial": trial, **told, **figures, **more}


def cell(trial: int, width: int, weight: float, accuracy: float | None, **more: Any) -> dict[str, Any]:
    return row(trial, accuracy, **{"static.width": width, "knob.penalty.weight": weight, **more})


def curve(trial: int, name: str, values: list[float], phase: str = "search") -> list[dict[str, Any]]:
    return [{"phase": phase, "trial": trial, "epoch": e, name: v} for e, v in enumerate(values, start=1)]


# ---------------------------------------------------------------------- figures


def test_rise_is_the_largest_climb_above_the_lowest_before_as_a_share_of_the_range() -> None:
    assert rise([1.0, 0.5, 0.7, 0.2, 0.3]) == pytest.approx(0.2 / 0.8)
    assert rise([3.0, 2.0, 1.0]) == 0.0
    assert rise([1.0, 2.0]) == 1.0
    assert rise([0.4, 0.4]) == 0.0
    assert rise([1.0, math.nan, None, 0.5, 0.75]) == pytest.approx(0.5)
    assert math.isnan(rise([1.0]))


def test_fluctuation_is_the_mean_change_between_epochs_of_the_second_half() -> None:
    # Changes 0.9, 0.1, 0.2, 0.4; the second half is the last two.
    assert fluctuation([0.0, 0.9, 0.8, 0.6, 1.0]) == pytest.approx(0.3)
    assert fluctuation([0.5, 0.8]) == pytest.approx(0.3)
    assert math.isnan(fluctuation([0.5]))


# ---------------------------------------------------------------------- cells and checks


def test_presets_are_cells_in_the_order_of_the_file_with_their_checks(tmp_path: Path) -> None:
    space = space_with(tmp_path, BY_PRESET)
    trials = [row(0, 0.7, preset="habit"), row(1, 0.4, preset="bold [red]"), row(2, 0.99)]
    epochs = curve(0, "train.loss", [1.0, 0.5, 0.6, 0.2]) + curve(1, "train.loss", [1.0, 0.9, 0.8, 0.7])
    values = experiment_values(space, trials, epochs)
    habit, bold = values["cells"]  # trial 2 was sampled and stands for no preset
    assert (habit["at"], habit["trials"]) == ({"preset": "habit"}, [0])
    assert habit["figures"]["error"] == {"mean": pytest.approx(0.3), "sd": None, "n": 1}
    assert [check["holds"] for check in habit["checks"]] == [True, False]
    assert habit["checks"][1]["mean"] == pytest.approx(0.125)
    assert [check["holds"] for check in bold["checks"]] == [False, True]
    assert [one["verdict"] for one in values["expect"]] == [NOT_HELD, HELD]


def test_presets_can_be_compared_by_another_axis_and_sampled_trials_still_stand_for_none(
    tmp_path: Path,
) -> None:
    changes = {"static": {"width": {"choice": [4, 8]}}}
    space = space_with(tmp_path, {"compare": ["width", "preset"]}, **changes)
    trials = [cell(0, 4, 0.1, 0.7, preset="habit"), cell(1, 8, 0.1, 0.6)]
    found = experiment_values(space, trials, [])["cells"]
    assert [one["at"] for one in found] == [{"width": 4, "preset": "habit"}]


def test_a_cell_without_a_trial_is_shown_and_decides_nothing(tmp_path: Path) -> None:
    space = space_with(tmp_path, BY_PRESET)
    values = experiment_values(space, [row(0, 0.7, preset="habit")], [])
    bold = values["cells"][1]
    assert bold["trials"] == [] and bold["figures"]["error"]["mean"] is None
    assert bold["checks"][0]["holds"] is None
    assert [one["verdict"] for one in values["expect"]] == [NOT_ENOUGH, NOT_ENOUGH]


def test_trials_that_run_or_failed_have_no_figures_and_shorter_ones_are_told(tmp_path: Path) -> None:
    space = space_with(tmp_path, BY_PRESET)
    trials = [
        row(0, 0.7, preset="habit", state="PRUNED", epochs=2),
        row(1, 0.4, preset="bold [red]", state="RUNNING"),
    ]
    epochs = [{"phase": "search", "trial": 0, "epoch": 2, "collapsed.code": True}]
    habit, bold = experiment_values(space, trials, epochs)["cells"]
    assert habit["cut"] == [{"trial": 0, "epochs": 2, "of": 4}] and habit["collapsed"] == {"code": 1}
    assert bold["trials"] == [] and bold["without"] == {"RUNNING": 1}


# ---------------------------------------------------------------------- grids


def full_grid() -> list[dict[str, Any]]:
    """Accuracy by width (4, 8) and penalty weight (0, 1, 10)."""
    accuracy = [[0.5, 0.6, 0.8], [0.4, 0.9, 0.7]]
    return [
        cell(3 * y + x, width, weight, accuracy[y][x])
        for y, width in enumerate((4, 8))
        for x, weight in enumerate((0.0, 1.0, 10.0))
    ]


def test_two_axes_make_a_matrix_that_marks_the_best_of_each_row_and_column(tmp_path: Path) -> None:
    values = experiment_values(grid(tmp_path, {"compare": ["width", "penalty.weight"]}), full_grid(), [])
    accuracy, error = values["matrices"]
    assert accuracy["means"] == [[0.5, 0.6, 0.8], [0.4, 0.9, 0.7]]
    assert (accuracy["best_in_row"], accuracy["best_in_column"]) == ([2, 1], [0, 1, 0])
    # Lower errors are better, so the same cells win.
    assert (error["best_in_row"], error["best_in_column"]) == ([2, 1], [0, 1, 0])
    assert [axis["values"] for axis in values["axes"]] == [[4, 8], [0.0, 1.0, 10.0]]


def test_nothing_is_best_among_equal_values_or_alone(tmp_path: Path) -> None:
    trials = [cell(0, 4, 0.0, 0.5), cell(1, 4, 1.0, 0.5), cell(2, 8, 0.0, 0.5)]
    accuracy = experiment_values(grid(tmp_path, {"compare": ["width", "penalty.weight"]}), trials, [])[
        "matrices"
    ][0]
    assert accuracy["best_in_row"] == [None, None] and accuracy["best_in_column"] == [None, None, None]


def test_an_order_holds_when_it_does_at_every_setting_of_the_other_axes(tmp_path: Path) -> None:
    expect = [
        {"says": "up", "value": "selection_accuracy", "rises": {"penalty.weight": [0.0, 1.0]}},
        {"says": "up twice", "value": "selection_accuracy", "rises": {"penalty.weight": [0.0, 1.0, 10.0]}},
        {"says": "down", "value": "error", "falls": {"penalty.weight": [0.0, 10.0]}},
        {
            "says": "up by much",
            "value": "selection_accuracy",
            "rises": {"penalty.weight": [0.0, 1.0]},
            "by": 0.2,
        },
        {
            "says": "up by much at 8",
            "value": "selection_accuracy",
            "rises": {"penalty.weight": [0.0, 1.0]},
            "by": 0.2,
            "where": {"width": 8},
        },
    ]
    space = grid(tmp_path, {"compare": ["width", "penalty.weight"], "expect": expect})
    found = experiment_values(space, full_grid(), [])["expect"]
    assert [one["verdict"] for one in found] == [HELD, NOT_HELD, HELD, NOT_HELD, HELD]
    assert [part["at"] for part in found[1]["parts"]] == [{"width": 4}, {"width": 8}]
    assert [part["verdict"] for part in found[1]["parts"]] == [HELD, NOT_HELD]
    assert [step["gain"] for step in found[1]["parts"][1]["steps"]] == [
        pytest.approx(0.5),
        pytest.approx(-0.2),
    ]


def test_one_part_without_data_leaves_an_expectation_open_unless_another_refutes_it(tmp_path: Path) -> None:
    expect = [{"says": "up", "value": "selection_accuracy", "rises": {"penalty.weight": [0.0, 1.0]}}]
    space = grid(tmp_path, {"compare": ["width", "penalty.weight"], "expect": expect})
    rising = [cell(0, 4, 0.0, 0.5), cell(1, 4, 1.0, 0.6), cell(2, 8, 0.0, 0.4)]
    assert experiment_values(space, rising, [])["expect"][0]["verdict"] == NOT_ENOUGH
    falling = [cell(0, 4, 0.0, 0.5), cell(1, 4, 1.0, 0.4), cell(2, 8, 0.0, 0.4)]
    assert experiment_values(space, falling, [])["expect"][0]["verdict"] == NOT_HELD


@pytest.mark.parametrize(
    ("wide", "verdict"),
    [(0.58, HELD), (0.53, NOT_ENOUGH), (0.47, NOT_ENOUGH), (0.43, NOT_HELD)],
)
def test_a_difference_of_one_seed_counts_when_it_is_larger_than_what_the_curves_move(
    tmp_path: Path, wide: float, verdict: str
) -> None:
    name = "val.selection_accuracy"
    # Changes 0.3, 0.06 and 0.04: the second half moves by 0.05 an epoch, the other curve by nothing.
    epochs = curve(0, name, [0.1, 0.4, 0.46, 0.5]) + curve(1, name, [wide] * 4)
    trials = [cell(0, 4, 0.0, 0.5), cell(1, 8, 0.0, wide)]
    found = experiment_values(grid(tmp_path, RISING), trials, epochs)["expect"][0]
    (step,) = found["parts"][0]["steps"]
    assert step["high"] - step["gain"] == pytest.approx(0.05)
    assert found["verdict"] == verdict


def test_three_axes_give_each_axis_by_itself_over_the_settings_that_its_values_share(tmp_path: Path) -> None:
    changes = {
        "knobs": {
            "penalty.weight": {"choice": [0.0, 1.0]},
            "penalty.schedule": {"choice": ["constant", "linear"]},
        }
    }
    space = space_with(
        tmp_path,
        {"compare": ["width", "penalty.weight", "penalty.schedule"], "metrics": ["selection_accuracy"]},
        **{**GRID, **changes},
    )
    accuracy = {(4, 0.0): 0.1, (4, 1.0): 0.2, (8, 0.0): 0.3, (8, 1.0): 0.6}
    trials = [
        cell(index, width, weight, value + (0.1 if schedule == "linear" else 0.0))
        | {"knob.penalty.schedule": schedule}
        for index, ((width, weight), value, schedule) in enumerate(
            (key, value, schedule) for key, value in accuracy.items() for schedule in ("constant", "linear")
        )
    ]
    trials.pop()  # 8, 1.0, linear has not run: its partner is left out of the width's means
    by_axis = {one["axis"]: one for one in experiment_values(space, trials, [])["effects"]}
    assert by_axis["width"]["means"] == [pytest.approx((0.1 + 0.2 + 0.2) / 3), pytest.approx(1.3 / 3)]
    assert by_axis["width"]["settings"] == 3 and by_axis["width"]["best"] == 1


# ---------------------------------------------------------------------- several seeds


def confirmed(accuracies: dict[int, list[float]]) -> list[dict[str, Any]]:
    """The search's trials 0 and 1 (width 4 and 8), and confirm trials of seeds 10, 11, ..."""
    rows = [cell(0, 4, 0.0, 0.99), cell(1, 8, 0.0, 0.01)]
    number = 0
    for source, values in accuracies.items():
        for seed, value in enumerate(values, start=10):
            more = {"phase": "confirm", "source": source, "seed": seed}
            rows.append(cell(number, (4, 8)[source], 0.0, value, **more))
            number += 1
    return rows


RISING = {
    "compare": "width",
    "expect": [{"says": "wider is better", "value": "selection_accuracy", "rises": {"width": [4, 8]}}],
}


def test_confirm_trials_take_the_place_of_the_search_s_and_are_averaged(tmp_path: Path) -> None:
    rows = confirmed({0: [0.5, 0.6], 1: [0.8, 0.9]})
    narrow = experiment_values(grid(tmp_path, RISING), rows, [])["cells"][0]
    assert (narrow["phase"], narrow["trials"], narrow["seeds"]) == ("confirm", [0, 1], [10, 11])
    figure = narrow["figures"]["selection_accuracy"]
    assert figure["mean"] == pytest.approx(0.55) and figure["sd"] == pytest.approx(0.05 * math.sqrt(2))


def test_the_confirmation_of_a_run_directory_stands_in_its_table(tmp_path: Path) -> None:
    directory, space = toy_run(tmp_path / "runs", experiment={**BY_PRESET, "expect": []})
    with directory.locked(), Run(directory, space, Settings(top=2, seeds=3)) as run:
        play_confirmation(run, lambda source, place: 0.7)
        run.close()
    habit, bold = experiment_of(directory, space)["cells"]
    assert (habit["phase"], len(habit["trials"])) == ("search", 1)  # the other preset was the better one
    assert (bold["phase"], len(bold["trials"])) == ("confirm", 3) and len(set(bold["seeds"])) == 3
    figure = bold["figures"]["selection_accuracy"]  # of the last epoch, on validation data
    assert (figure["mean"], figure["n"]) == (pytest.approx(0.6), 3)
    assert bold["checks"][1]["holds"] is True  # its curves are the confirmation's


def test_a_confirm_trial_belongs_to_the_cell_of_its_source(tmp_path: Path) -> None:
    rows = confirmed({0: [0.5], 1: [0.8]})
    for one in rows[2:]:
        del one["static.width"], one["knob.penalty.weight"]
    cells = experiment_values(grid(tmp_path, RISING), rows, [])["cells"]
    assert [one["figures"]["selection_accuracy"]["mean"] for one in cells] == [0.5, 0.8]


@pytest.mark.parametrize(
    ("wide", "verdict"),
    [([0.61, 0.70, 0.81], HELD), ([0.41, 0.52, 0.60], NOT_HELD), ([0.70, 0.55, 0.72], NOT_ENOUGH)],
)
def test_with_three_seeds_the_interval_of_the_paired_difference_decides(
    tmp_path: Path, wide: list[float], verdict: str
) -> None:
    narrow = [0.5, 0.6, 0.7]
    found = experiment_values(grid(tmp_path, RISING), confirmed({0: narrow, 1: wide}), [])["expect"][0]
    (step,) = found["parts"][0]["steps"]
    gains = [two - one for one, two in zip(narrow, wide, strict=True)]
    low, high = interval(gains)
    assert (step["low"], step["high"]) == (pytest.approx(low), pytest.approx(high))
    assert step["gain"] == pytest.approx(sum(gains) / 3)
    assert found["verdict"] == verdict


# ---------------------------------------------------------------------- the section of a space


def test_an_experiment_reads_back_from_its_plain_form_and_leaves_the_fingerprint_alone(
    tmp_path: Path,
) -> None:
    space = space_with(tmp_path, BY_PRESET)
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(space.resolved(), sort_keys=False))
    assert load_space(path).experiment == space.experiment
    assert space.fingerprint() == space_with(tmp_path, "off").fingerprint()
    assert space_with(tmp_path, "off").experiment is None


@pytest.mark.parametrize("name", [name for name, _, _ in shipped_spaces()])
def test_the_experiments_of_the_shipped_spaces_survive_the_way_into_a_run_directory(
    name: str, tmp_path: Path
) -> None:
    space = load_space(name)
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(space.resolved(), sort_keys=False))
    assert load_space(path).experiment == space.experiment
    if "_" in name.replace("beta_vae", ""):  # the grids and lists of known experiments
        assert space.experiment is not None and space.experiment.expect


CLAIM = {"says": "a", "value": "error", "at_most": 1.0}
WRONG = {
    "no axis": ({"metrics": ["error"]}, "experiment.compare is missing"),
    "a range as axis": ({"compare": ["optim.lr"]}, "optim.lr, which has a range"),
    "a foreign axis": ({"compare": ["widht"]}, "Did you mean 'width'?"),
    "a foreign metric": ({"compare": ["width"], "metrics": ["eror"]}, "Did you mean 'error'?"),
    "two figures": (
        {"compare": ["width"], "checks": [{**CLAIM, "rise": "train.loss"}]},
        "experiment.checks[0] needs one of value, rise, fluctuation; found value and rise",
    ),
    "no bound": (
        {"compare": ["width"], "checks": [{"says": "a", "value": "error"}]},
        "needs one of between, at_least, at_most; found none",
    ),
    "an order as a check": (
        {"compare": ["width"], "checks": [{"says": "a", "value": "error", "rises": {"width": [4, 8]}}]},
        "unknown key 'rises' in experiment.checks[0]",
    ),
    "bounds upside down": (
        {"compare": ["width"], "checks": [{"says": "a", "value": "error", "between": [2.0, 1.0]}]},
        "upside down: 2 is above 1. Write [1, 2].",
    ),
    "no sentence": (
        {"compare": ["width"], "checks": [{"value": "error", "at_most": 1.0}]},
        "experiment.checks[0].says is missing",
    ),
    "a value that cannot occur": (
        {"compare": ["width"], "expect": [{"says": "a", "value": "error", "rises": {"width": [4, 9]}}]},
        "experiment.expect[0].rises.width is 9, but in this space width is one of 4, 8",
    ),
    "an axis that is not compared": (
        {"compare": ["width"], "expect": [{**CLAIM, "where": {"penalty.weight": 1.0}}]},
        "names penalty.weight, but compare has width",
    ),
    "one value is no order": (
        {"compare": ["width"], "expect": [{"says": "a", "value": "error", "falls": {"width": [4]}}]},
        "needs at least two values",
    ),
    "a margin for a bound": (
        {"compare": ["width"], "expect": [{**CLAIM, "by": 0.1}]},
        "by has a meaning only with rises or falls",
    ),
    "a word": ("yes please", "experiment is 'yes please', but must be a mapping"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_section_is_refused_with_its_place_and_the_repair(case: str, tmp_path: Path) -> None:
    section, message = WRONG[case]
    changes = {**GRID, "knobs": {**GRID["knobs"], "optim.lr": {"float": [0.001, 0.1]}}}
    if case != "a range as axis":
        changes = GRID
    else:
        changes["search"] = {"sampler": "random"}
    with pytest.raises(BadSpace) as caught:
        space_with(tmp_path, section, **changes)
    assert message in str(caught.value)
    assert "experiment.yaml:" in str(caught.value)


def test_an_axis_that_the_command_line_narrows_leaves_its_expectations_open(tmp_path: Path) -> None:
    grid(tmp_path, RISING)
    space = load_space(tmp_path / "experiment.yaml", overrides={"static.width": "4"})
    values = experiment_values(space, [cell(0, 4, 0.0, 0.5)], [])
    assert values["expect"][0]["verdict"] == NOT_ENOUGH
    path = tmp_path / "stored.yaml"  # as a run directory keeps it
    path.write_text(yaml.safe_dump(space.resolved(), sort_keys=False))
    assert load_space(path).experiment == space.experiment
