"""Why a trial ended as it did: the verdict computed again, the settings beside others', what is printed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_run import message, toy_run, toy_space

from search.cli import main
from search.commands_explain import _evidence
from search.explain_lines import sentence, sparkline
from search.explaining import explain, setting_distance
from search.parameters import Parameter
from search.replay import Evidence, recomputed, replay_halving, replay_median
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space

OFF = {"prune": "off", "plateau": "off", "collapse": "off"}
CONSTANT = {"penalty.weight": 0.1, "penalty.schedule": "constant"}


def rows_of(number: int, values: list[float], **columns: list[Any]) -> list[dict[str, Any]]:
    """A trial's stored rows: the accuracy by epoch, and other columns (`_` for the dot) where they matter."""
    rows = []
    for epoch, value in enumerate(values, start=1):
        posted = message(number, epoch, value)
        more = {name.replace("_", ".", 1): column[epoch - 1] for name, column in columns.items()}
        rows.append({"trial": number, "epoch": epoch, "diverged": 0.0, **posted["row"], **more})
    return rows


def trial(
    number: int, rows: list[dict[str, Any]], state: str, reason: str | None, **more: Any
) -> dict[str, Any]:
    values = [(row["val.selection_accuracy"], row["epoch"]) for row in rows]
    finite = [pair for pair in values if not math.isnan(pair[0])]
    best = max(finite, key=lambda pair: pair[0], default=(None, None))
    told = {"trial": number, "state": state, "reason": reason, "numbers": {}, "preset": None, "seed": 0}
    told |= {"retries": 0, "engine": "engine-0", "error": None, "value": best[0], "best_epoch": best[1]}
    return {**told, "epochs": len(rows), "recorded_epochs": len(rows), "settings": CONSTANT, **more}


def alone(rows: list[dict[str, Any]], state: str, reason: str | None, **more: Any) -> Evidence:
    """The evidence of a run with one trial."""
    return Evidence({0: trial(0, rows, state, reason, **more)}, {0: rows} if rows else {}, events_of(rows))


def events_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"kind": "reported", "row": row} for row in rows]


def space_with(folder: Path, epochs: int = 8, **stop: Any) -> Space:
    return toy_space(folder, budget={"trials": 6, "epochs": epochs}, stop={**OFF, **stop})


# ---------------------------------------------------------------------- each rule, worked by hand


def test_a_plateau_tells_the_value_that_counted_and_the_gain_since(tmp_path: Path) -> None:
    space = space_with(tmp_path, plateau={"patience": 2, "min_delta": 0.01, "warmup": 1})
    rows = rows_of(0, [0.5, 0.6, 0.604, 0.602])
    numbers = {"best": 0.6, "best_epoch": 2, "waited": 2, "patience": 2}
    recorded = {f"selection_accuracy.{name}": value for name, value in numbers.items()}
    end = explain(0, alone(rows, "COMPLETE", "plateau", numbers=recorded), space)["end"]
    assert end["agrees"] is True
    (seen,) = end["rules"]
    assert seen["settings"]["min_delta"] == 0.01
    saw = seen["metrics"]["selection_accuracy"]
    assert (saw["best"], saw["best_epoch"], saw["waited"], saw["reached"]) == (0.6, 2, 2, 0.604)
    assert saw["gain"] == pytest.approx(0.004)


def test_a_collapse_tells_its_epochs_and_the_families_words(tmp_path: Path) -> None:
    space = space_with(tmp_path, collapse={"warmup": 1, "patience": 3})
    rows = rows_of(0, [0.5] * 5, collapsed_code=[1.0, math.nan, 1.0, 1.0, 1.0])
    facts = explain(0, alone(rows, "PRUNED", "collapse:code", numbers={"code": 3}), space)
    (seen,) = facts["end"]["rules"]
    assert facts["end"]["agrees"] is True
    assert seen["kinds"] == {"code": {"run": 3, "epochs": [1, 3, 4, 5]}}
    assert facts["collapse"]["code"]["words"] == "the root mean square of the code is below 0.01"
    assert facts["collapse"]["code"]["not_judged"] == [2]
    assert facts["warnings"] == [], "what ended the trial is no warning"


def test_a_target_and_a_time_joined_by_all_are_both_told(tmp_path: Path) -> None:
    rules = [{"target": {"target": 0.6, "patience": 2}}, {"time": {"seconds": 1.5}}]
    space = space_with(tmp_path, all=rules)
    rows = rows_of(0, [0.5, 0.61, 0.62])
    numbers = {"target.value": 0.62, "target.target": 0.6, "time.seconds": 1.5, "time.allowed": 1.5}
    evidence = alone(rows, "PRUNED", "all(target_reached+over_budget)", numbers=numbers)
    facts = explain(0, evidence, space)
    assert facts["end"]["agrees"] is True
    target, time = facts["end"]["rules"]
    assert target["values"] == [0.61, 0.62] and target["epoch"] == 3
    assert (time["seconds"], time["epoch_seconds"]) == (1.5, 0.5)
    assert "reached the target and used up its time (PRUNED" in sentence(facts)


def test_a_divergence_names_the_figures_that_it_broke_and_no_other(tmp_path: Path) -> None:
    rows = rows_of(0, [0.5, 0.6], val_loss=[1.0, math.nan], grad_norm=[1.0, 1.0], val_error=[math.nan] * 2)
    rows[-1] |= {"diverged": 1.0, "grad_norm": math.inf, "collapsed.code": math.nan}
    facts = explain(0, alone(rows, "PRUNED", "diverged", numbers={"epoch": 2}), space_with(tmp_path))
    (seen,) = facts["end"]["rules"]
    assert facts["end"]["agrees"] is True
    assert seen["epoch"] == 2 and sorted(seen["figures"]) == ["grad_norm", "val.loss"]


def test_a_plateau_at_the_last_epoch_cuts_nothing_off_and_is_told_beside(tmp_path: Path) -> None:
    space = space_with(tmp_path, epochs=4, plateau={"patience": 2, "min_delta": 0.01, "warmup": 0})
    evidence = alone(rows_of(0, [0.5, 0.6, 0.6, 0.6]), "COMPLETE", "completed")
    end = explain(0, evidence, space)["end"]
    assert end["agrees"] is True
    assert end["rules"] == [{"rule": "completed", "settings": {}, "also": "plateau"}]


def test_a_trial_without_a_finite_objective_failed_for_that(tmp_path: Path) -> None:
    evidence = alone(rows_of(0, [math.nan] * 2), "FAIL", "no_finite_objective")
    facts = explain(0, evidence, space_with(tmp_path, epochs=2))
    assert facts["end"]["agrees"] is True and facts["rank"] is None
    assert sentence(facts).endswith("it has no value for selection_accuracy.")


def test_halving_counts_those_that_were_there_by_then_and_leaves_presets_out(tmp_path: Path) -> None:
    """Reduction 2 at epoch 1, in order: the preset's 0.9 is left out; 0.5 is alone and goes on; 0.6 is best
    of 2 and goes on; 0.55 is second of 3, of which one may: it needed 0.6; 0.58 is second of 4, of which two
    may."""
    space = space_with(tmp_path, prune={"rule": "successive_halving", "min_epochs": 1, "reduction": 2})
    values = {0: 0.9, 1: 0.5, 2: 0.6, 3: 0.55, 4: 0.58}
    epochs = {number: rows_of(number, [value]) for number, value in values.items()}
    trials = {number: trial(number, rows, "RUNNING", None) for number, rows in epochs.items()}
    trials[0] |= {"preset": "habit"}
    numbers = {"epoch": 1, "value": 0.55}
    trials[3] |= {"state": "PRUNED", "reason": "successive_halving", "numbers": numbers}
    events = [event for rows in epochs.values() for event in events_of(rows)]
    rungs = {number: {0: value} for number, value in values.items() if number}
    evidence = Evidence(trials, epochs, events, rungs)
    judged = {
        one.trial: (one.place, one.reached, one.kept, one.goes_on) for one in replay_halving(evidence, space)
    }
    assert judged == {1: (1, 1, 1, True), 2: (1, 2, 1, True), 3: (2, 3, 1, False), 4: (2, 4, 2, True)}
    end = explain(3, evidence, space)["end"]
    assert end["agrees"] is True
    (seen,) = end["rules"]
    assert (seen["needed"], seen["place"], seen["reached"], seen["exact"]) == (0.6, 2, 3, True)
    rungs[2] = {0: 0.7}
    assert explain(3, evidence, space)["end"]["rules"][0]["exact"] is False, "the study says otherwise"


def test_the_median_is_that_of_the_trials_complete_by_then(tmp_path: Path) -> None:
    """At epoch 2 five complete trials had 0.1 to 0.5, the median 0.3; the sixth ended afterwards."""
    space = space_with(tmp_path, epochs=2, prune={"rule": "median", "min_epochs": 2})
    epochs = {number: rows_of(number, [0.9, number / 10]) for number in range(1, 7)}
    epochs[7] = rows_of(7, [0.2, 0.25])
    trials = {number: trial(number, rows, "COMPLETE", "completed") for number, rows in epochs.items()}
    trials[7] |= {"state": "PRUNED", "reason": "median", "numbers": {"epoch": 2, "value": 0.25}}
    end = [{"kind": "finished", "trial": number, "state": "COMPLETE"} for number in range(1, 7)]
    first = [event for number in range(1, 7) for event in events_of(epochs[number])]
    evidence = Evidence(trials, epochs, [*first, *end[:5], *events_of(epochs[7]), end[5]])
    seen = replay_median(7, evidence, space)
    assert (seen["median"], seen["compared"], seen["best"], seen["goes_on"]) == (0.3, 5, 0.25, False)
    assert (
        replay_median(7, Evidence(trials, epochs, [*first, *end[:4], *events_of(epochs[7])]), space) is None
    )


# ---------------------------------------------------------------------- against what searches recorded


def play_interleaved(run: Run, seed: int, objective: str) -> None:
    """All trials of a run, up to five at a time, with random curves some of whose values are NaN."""
    source, live, asked = random.Random(seed), [], True
    while live or asked:
        if asked and len(live) < 5:
            asked = run.next_trial()
            live += [asked.number] if asked else []
            continue
        number = source.choice(live)
        epoch = len(run.trials[number].rows) + 1
        value = math.nan if source.random() < 0.1 else source.random() / 10 + number % 7 / 20
        posted = message(number, epoch, value, diverged=source.random() < 0.01)
        if objective == "error":
            posted["row"]["val.error"] = value
        if run.receive(posted):
            live.remove(number)


@pytest.mark.parametrize("objective", ["selection_accuracy", "error"])
@pytest.mark.parametrize(
    "prune",
    [
        {"rule": "successive_halving", "min_epochs": 1, "reduction": 2},
        {"rule": "successive_halving", "min_epochs": 2, "reduction": 3},
        {"rule": "median", "min_epochs": 2},
    ],
    ids=["halving 1 2", "halving 2 3", "median"],
)
def test_the_verdict_computed_again_is_the_one_that_optuna_and_the_rules_gave(
    tmp_path: Path, prune: Mapping[str, Any], objective: str
) -> None:
    """Optuna 4's pruners are the oracle: they judged these trials through `Run`."""
    stop = {**OFF, "prune": dict(prune), "plateau": {"patience": 4, "min_delta": 0.01, "warmup": 1}}
    changes = {"budget": {"trials": 40, "epochs": 9}, "stop": stop, "objective": objective}
    space = toy_space(tmp_path, **changes)
    directory = Run.create(space, tmp_path)
    with directory.locked(), Run(directory, space) as run:
        play_interleaved(run, 1, objective)
        run.close()
    evidence = _evidence(directory, space)
    reasons = {one["reason"] for one in evidence.trials.values()}
    assert prune["rule"] in reasons and len(reasons) >= 3
    for number, one in evidence.trials.items():
        end = explain(number, evidence, space)["end"]
        assert end["agrees"] is True, (number, end)
        if one["reason"] == prune["rule"]:
            assert end["rules"][0]["exact"] is True
        before = Evidence(
            {**evidence.trials, number: {**one, "state": "RUNNING"}},
            {**evidence.epochs, number: evidence.epochs[number][:-1]},
            [e for e in evidence.events if e.get("row") is not evidence.epochs[number][-1]],
        )
        assert recomputed(number, before, space) is None, "an epoch earlier it went on"


def test_a_toy_runs_recorded_ends_are_computed_again(tmp_path: Path) -> None:
    directory, space = toy_run(tmp_path / "runs")
    evidence = _evidence(directory, space)
    agrees = {number: explain(number, evidence, space)["end"]["agrees"] for number in evidence.trials}
    # 4 failed before its first epoch, and 5 was ended by hand as pruned, in a space that prunes nothing.
    assert agrees == {0: True, 1: True, 2: True, 3: True, 4: None, 5: False}


# ---------------------------------------------------------------------- settings


def test_settings_are_as_far_apart_as_their_range_says() -> None:
    log = Parameter("a", "float", low=0.001, high=1.0, log=True)
    assert setting_distance(log, 0.01, 0.1) == pytest.approx(1 / 3)
    assert setting_distance(Parameter("a", "float", low=0.0, high=4.0), 1.0, 3.0) == 0.5
    assert setting_distance(Parameter("a", "int", low=2, high=2), 2, 2) == 0.0
    words = Parameter("a", "choice", choices=("x", "y"))
    assert (setting_distance(words, "x", "x"), setting_distance(words, "x", "y")) == (0.0, 1.0)
    assert (setting_distance(log, None, 0.1), setting_distance(log, None, None)) == (1.0, 0.0)


def test_the_nearest_better_trial_shares_most_settings_and_the_best_is_the_best_complete_one(
    tmp_path: Path,
) -> None:
    delayed = {"penalty.weight": 0.1, "penalty.schedule": "delayed", "penalty.start": 0.2}
    given = [  # settings, value, state: 1 and 2 did better than 0; 1 is near in all settings; 4 did worse
        (delayed, 0.5, "PRUNED"),
        ({**delayed, "penalty.start": 0.22}, 0.6, "PRUNED"),
        ({"penalty.weight": 0.9, "penalty.schedule": "constant"}, 0.7, "COMPLETE"),
        (delayed, None, "FAIL"),
        (delayed, 0.4, "COMPLETE"),
    ]
    trials = {
        number: trial(number, [], state, "x", settings=settings, value=value)
        for number, (settings, value, state) in enumerate(given)
    }
    facts = explain(0, Evidence(trials, {}, []), space_with(tmp_path))
    assert (facts["rank"], facts["ranked"]) == (3, 4)
    near = facts["nearest_better"]
    assert (near["trial"], near["near"], near["settings"]) == (1, 3, 3)
    assert near["differs"] == [{"setting": "penalty.start", "this": 0.2, "other": 0.22, "near": True}]
    best = facts["best"]
    assert (best["trial"], best["is_best"]) == (2, False)
    assert {one["setting"]: one["other"] for one in best["differs"]} == {
        "penalty.weight": 0.9,
        "penalty.schedule": "constant",
        "penalty.start": None,
    }
    of_the_best = explain(2, Evidence(trials, {}, []), space_with(tmp_path))
    assert of_the_best["nearest_better"] is None
    assert (of_the_best["best"]["trial"], of_the_best["best"]["is_best"]) == (4, True)


# ---------------------------------------------------------------------- curves and warnings


def test_curves_have_their_first_best_and_last_value(tmp_path: Path) -> None:
    rows = rows_of(0, [0.5, 0.7, 0.6], val_loss=[2.0, math.nan, 3.0])
    curves = {
        one["name"]: one for one in explain(0, alone(rows, "RUNNING", None), space_with(tmp_path))["curves"]
    }
    accuracy, loss = curves["val.selection_accuracy"], curves["val.loss"]
    assert (accuracy["first"], accuracy["best"], accuracy["best_epoch"], accuracy["last"]) == (
        0.5,
        0.7,
        2,
        0.6,
    )
    assert (loss["first"], loss["best"], loss["best_epoch"], loss["last"]) == (2.0, 2.0, 1, 3.0)
    assert "train.penalty" not in curves, "was never reported"


def test_a_sparkline_spans_the_lowest_to_the_highest_value() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([1.0, math.nan, None, 3.0]) == "▁??█"
    assert sparkline([math.inf]) == "?" and sparkline([]) == ""
    assert sparkline([-1.7e308, 1.7e308]) == "▁█"
    assert sparkline([float(n) for n in range(640)]) == "".join(block * 4 for block in "▁▂▃▄▅▆▇█")


def test_losses_that_drift_apart_are_warned_of_with_their_numbers(tmp_path: Path) -> None:
    def warned(train: list[float], val: list[float]) -> list[str]:
        rows = rows_of(0, [0.5] * 3, train_loss=train, val_loss=val)
        return explain(0, alone(rows, "RUNNING", None), space_with(tmp_path))["warnings"]

    (warning,) = warned([3.0, 2.0, 1.0], [3.0, 2.0, 2.5])
    assert "since epoch 2 val.loss rose from 2 to 2.5, while train.loss fell from 2 to 1" in warning
    assert warned([3.0, 2.0, 1.0], [3.0, 2.0, 2.1]) == [], "a tenth is no drift"
    assert warned([3.0, 2.0, 2.1], [3.0, 2.0, 2.5]) == [], "both rise: the weights changed"


def test_a_term_that_never_took_part_is_warned_of_and_one_that_paused_is_listed(tmp_path: Path) -> None:
    rows = rows_of(0, [0.5, 0.6], active_penalty=[0, 0], active_reconstruction=[64, 0])
    facts = explain(0, alone(rows, "RUNNING", None), space_with(tmp_path))
    assert facts["warnings"] == ["term penalty never had an active example, so its weight changed nothing"]
    assert facts["active"]["reconstruction"] == {"first": 64, "last": 0, "most": 64, "inactive": [2]}


@pytest.mark.parametrize(("epochs", "warned"), [(3, True), (4, False)])
def test_a_schedule_that_had_not_come_to_its_full_weight_is_warned_of(
    tmp_path: Path, epochs: int, warned: bool
) -> None:
    """Delayed to half of a budget of 8 epochs: in force after epoch 4."""
    settings = {"penalty.weight": 0.1, "penalty.schedule": "delayed", "penalty.start": 0.5}
    evidence = alone(rows_of(0, [0.5] * epochs), "FAIL", "raised", settings=settings)
    warnings = explain(0, evidence, space_with(tmp_path))["warnings"]
    assert bool(warnings) is warned
    assert not warned or "penalty.schedule delayed never reached the full penalty.weight 0.1" in warnings[0]


def test_collapse_at_the_end_that_no_rule_acted_on_is_warned_of(tmp_path: Path) -> None:
    rows = rows_of(0, [0.5] * 3, collapsed_code=[0.0, 1.0, 1.0])
    (off,) = explain(0, alone(rows, "RUNNING", None), space_with(tmp_path))["warnings"]
    assert "in 2 of 3" in off and off.endswith("no collapse rule of the space judges it")
    waiting = space_with(tmp_path, collapse={"warmup": 0, "patience": 3})
    (on,) = explain(0, alone(rows, "RUNNING", None), waiting)["warnings"]
    assert on.endswith("it is not what ended the trial")
    unjudged = rows_of(0, [0.5] * 2, collapsed_code=[1.0, math.nan])
    assert explain(0, alone(unjudged, "RUNNING", None), waiting)["warnings"] == []


# ---------------------------------------------------------------------- the command


def test_the_first_line_says_what_became_of_the_trial(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    first = {}
    for number in range(6):
        assert main(["explain", directory.name, str(number)]) == 0
        first[number] = capsys.readouterr().out.splitlines()[0]
    assert first[0] == (
        "Trial 0 (preset habit) was ended for collapse (code) (PRUNED, collapse:code) after 4 of 4 epochs; "
        "best selection_accuracy 0.5000 at epoch 1, rank 4 of 5."
    )
    assert first[2].endswith("best selection_accuracy 0.9000 at epoch 3, rank 1 of 5.")
    assert first[3].startswith("Trial 3 diverged (PRUNED, diverged) after 2 of 4 epochs")
    assert first[4].startswith(
        "Trial 4 failed: it raised an error (FAIL, raised) after 0 of 4 epochs; it has no"
    )


def test_a_failed_trial_names_its_error_and_where_the_traceback_is(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["explain", directory.name, "4"]) == 0
    said = capsys.readouterr().out
    assert "Its error: ValueError: the family\\x1b[31m raised" in said and "\x1b" not in said
    assert f"The traceback is in runs/{directory.name}/run.log" in said
    assert "It was started again twice" in said


def test_an_end_that_the_rules_do_not_bear_out_is_said_to_differ(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["explain", directory.name, "5"]) == 0
    said = capsys.readouterr().out
    assert "cannot be reproduced" in said
    assert "NOT the same as recorded: the stored epochs give no rule ends it there" in said


def test_the_json_holds_the_same_facts_and_no_number_that_json_lacks(here: Path, capsys) -> None:
    directory, space = toy_run(here / "runs")
    figures = directory.trial(2) / "figures"
    figures.mkdir()
    (figures / "vectors_best.png").write_bytes(b"")
    assert main(["explain", directory.name, "2", "--json"]) == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    facts = json.loads(capsys.readouterr().out, parse_constant=refuse)
    told = explain(2, _evidence(directory, space), space)
    assert {name: facts[name] for name in ("rank", "end", "best", "curves", "warnings")} == {
        name: told[name] for name in ("rank", "end", "best", "curves", "warnings")
    }
    assert facts["files"]["pictures"] == [f"runs/{directory.name}/trials/2/figures/vectors_best.png"]
    assert facts["files"]["config.yaml"] == f"runs/{directory.name}/trials/2/config.yaml"


def test_a_trial_is_explained_while_the_search_runs_and_nothing_is_changed(here: Path, capsys) -> None:
    space = toy_space(here, stop={**OFF, "prune": {"min_epochs": 2, "reduction": 3}})
    directory = Run.create(space, here / "runs")
    with directory.locked(), Run(directory, space) as run:
        for _ in range(3):
            number = run.next_trial().number
        run.receive(message(number, 1, 0.5))  # neither the tables nor the study's end know of it yet
        before = contents(directory)
        assert main(["explain", directory.name, "2"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(
            "Trial 2 is in progress (RUNNING), 1 of 4 epochs reported; best selection_accuracy"
        )
        assert "compares it with the others at epoch 2" in said
        assert contents(directory) == before
    assert main(["explain", directory.name, "2"]) == 0
    assert "was interrupted and can be resumed" in capsys.readouterr().out


def contents(directory: RunDirectory) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}


def test_help_has_an_example(capsys) -> None:
    assert main(["explain", "--help"]) == 0
    assert "  loss-search explain beta_vae-20260131-120000 7" in capsys.readouterr().out


def test_a_preset_that_waits_is_said_to_wait(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs", trials=1)
    assert main(["explain", directory.name, "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Trial 1 (preset bold [red]) has not been tried yet (WAITING).")
    assert "drawn when it starts" in said


def test_epochs_that_were_lost_are_not_taken_for_a_verdict(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    directory.events.unlink()
    assert main(["explain", directory.name, "1"]) == 0
    assert "the same verdict" in capsys.readouterr().out, "Parquet has its epochs too"
    (directory.path / "epochs.parquet").unlink()
    assert main(["explain", directory.name, "1"]) == 0
    assert "cannot be computed again: 0 of its 4 epochs are stored" in capsys.readouterr().out


def test_a_trial_or_a_run_that_does_not_exist_is_bad_input(here: Path, capsys) -> None:
    directory, _ = toy_run(here / "runs")
    assert main(["explain", directory.name, "77"]) == 2
    assert "has no trial 77; its trials are 0 to 5" in capsys.readouterr().err
    assert main(["explain", "absent", "0"]) == 2
    assert "no such run directory" in capsys.readouterr().err
    assert main(["explain", directory.name, "-1"]) == 2
