"""What is confirmed, with which seeds, in which order, and what a driver that died leaves to the next."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_run import message, play_confirmation, toy_run

from search import commands_run
from search.cli import main
from search.configuration import load_configuration
from search.confirm import LATER, Candidate, Settings, chosen, fresh_seeds, missing, settings_of
from search.errors import BadInput
from search.events import phase_of, read_events
from search.record import read_epochs, read_trials
from search.record_check import check_record
from search.run import Run
from search.standing import confirmation_of, standing_of, study_trials
from search.summary_files import write_summary


def candidate(number: int, *values: float, preset: str | None = None, complete: bool = True, **params):
    return Candidate(number, preset, complete, values, params or {"lr": number})


def numbers(candidates: list[Candidate]) -> list[int]:
    return [one.number for one in candidates]


def rows_of(path: Path, phase: str = "confirm") -> list[dict]:
    return [row for row in read_trials(path).to_pylist() if row["phase"] == phase]


def complaints(directory, space) -> list[str]:
    standing = standing_of(directory, space)
    return check_record(
        directory.path, standing.trials, standing.events, confirm_trials=standing.confirm_trials
    )


# ---------------------------------------------------------------------- which configurations


def test_the_best_complete_trials_are_chosen_and_the_best_preset_comes_last():
    found = [
        candidate(0, 0.3, preset="habit"),
        candidate(1, 0.4, preset="custom"),
        candidate(2, 0.9, complete=False),
        candidate(3, 0.6),
        candidate(4, 0.8),
        candidate(5, 0.5),
    ]
    assert numbers(chosen(found, ["maximize"], 2)) == [4, 3, 1]
    assert numbers(chosen(found, ["minimize"], 2)) == [0, 1]  # the best preset is among the top: not again


def test_a_configuration_that_was_tried_twice_is_confirmed_once():
    found = [candidate(0, 0.5, lr=1), candidate(1, 0.7, lr=1), candidate(2, 0.6, lr=2)]
    assert numbers(chosen(found, ["maximize"], 3)) == [1, 2]


def test_presets_that_were_all_stopped_are_still_what_the_winner_has_to_beat():
    found = [
        candidate(0, 0.2, preset="habit", complete=False),
        candidate(1, 0.3, preset="custom", complete=False),
        candidate(2, 0.6),
    ]
    assert numbers(chosen(found, ["maximize"], 3)) == [2, 1]


def test_with_several_objectives_the_pareto_front_is_confirmed_by_the_first():
    found = [candidate(0, 0.9, 5.0), candidate(1, 0.8, 6.0), candidate(2, 0.7, 1.0), candidate(3, 0.9, 7.0)]
    assert numbers(chosen(found, ["maximize", "minimize"], 3)) == [0, 2]


# ---------------------------------------------------------------------- which seeds


@given(st.integers(0, 2**31 - 1), st.integers(0, 40), st.sets(st.integers(0, 2**31 - 1), max_size=5))
def test_fresh_seeds_are_new_different_and_begin_alike_however_many(seed, count, used):
    found = fresh_seeds(seed, count, used)
    assert len(set(found)) == count and not set(found) & {seed, *used}
    assert all(0 <= one < 2**31 - 1 for one in found)
    assert fresh_seeds(seed, count + 3, used)[:count] == found


def test_what_is_missing_is_asked_seed_by_seed():
    one, other = candidate(4, 0.8), candidate(1, 0.4)
    left = missing([one, other], [7, 8, 9], [(4, 7), (1, 8), (4, 9)])
    assert [(c.number, seed) for c, seed in left] == [(1, 7), (4, 8), (1, 9)]


# ---------------------------------------------------------------------- how much


def test_the_command_line_wins_over_the_earlier_call_and_that_over_the_space(tmp_path):
    _, space = toy_run(tmp_path / "runs", confirm={"top": 4, "seeds": 6, "max_seeds": 8})
    nothing = {"top": None, "seeds": None, "max_seeds": None}
    assert settings_of(space, {}, nothing) == Settings(4, 6, 8)
    assert settings_of(space, {"top": 1, "seeds": 2}, nothing) == Settings(1, 2, 8)
    assert settings_of(space, {}, {**nothing, "seeds": 9}) == Settings(4, 9, 9)
    assert settings_of(space, {}, {**nothing, "max_seeds": 20}) == Settings(4, 6, 20)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top": 0}, "--top 0: must be 1 to 1000"),
        ({"seeds": 1}, "--seeds 1: must be 2 to 1000"),
        ({"seeds": 5, "max_seeds": 4}, r"--max-seeds 4: must be at least --seeds \(5\)"),
    ],
)
def test_numbers_that_make_no_confirmation_are_refused(given, said):
    with pytest.raises(BadInput, match=said):
        Settings(**given)


# ---------------------------------------------------------------------- a confirmation without Ray


def test_every_configuration_gets_the_same_fresh_seeds_and_its_test_score(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    searched = rows_of(directory.path, "search")
    with Run(directory, space, Settings(top=2, seeds=3)) as run:
        assert run.num_trials() == 6
        play_confirmation(run, lambda source, index: 0.8 + 0.01 * index)
        assert not run.work_left() and run.next_trial() is None
        run.close()
    rows = rows_of(directory.path)
    seeds = fresh_seeds(space.seed, 3, [])
    assert [(row["source"], row["seed"]) for row in rows] == [(s, seed) for seed in seeds for s in (2, 1)]
    assert [row["preset"] for row in rows] == [None, "bold [red]"] * 3
    assert all(row["state"] == "COMPLETE" and row["stop_reason"] == "completed" for row in rows)
    assert rows[0]["test.selection_accuracy"] == 0.8 and rows[0]["epochs"] == space.budget.epochs
    by_number = {row["trial"]: row for row in searched}
    for row in rows:
        knobs = [name for name in row if name.startswith(("knob.", "static."))]
        assert [row[name] for name in knobs] == [by_number[row["source"]][name] for name in knobs]
    last = [row for row in read_epochs(directory.path).to_pylist() if row["test.selection_accuracy"]]
    assert {(row["phase"], row["epoch"]) for row in last} == {("confirm", space.budget.epochs)}
    for before, after in zip(searched, rows_of(directory.path, "search"), strict=True):
        assert before == {name: after[name] for name in before}
    assert complaints(directory, space) == []
    for row in rows:
        folder = directory.confirmations / str(row["trial"])
        assert list(folder.glob("events.out.tfevents.*"))
        assert load_configuration(folder / "config.yaml", space.family_name).seed == row["seed"]


def test_no_rule_but_divergence_ends_a_trial_of_a_confirmation(tmp_path):
    directory, space = toy_run(
        tmp_path / "runs",
        stop={"collapse": {"warmup": 0, "patience": 4}, "time": {"seconds": 1000}, "prune": "off"},
        trials=6,
    )
    with Run(directory, space, Settings(top=1, seeds=2)) as run:
        first, second = run.next_trial().number, run.next_trial().number
        for epoch in (1, 2, 3):  # collapsed from the start, far beyond the patience
            assert not run.receive(message(first, epoch, 0.1, code=1.0))
        assert run.receive({**message(first, 4, 0.1, code=1.0), "done": True})
        assert run.receive(message(second, 1, 0.1, diverged=True))
        run.close()
    rows = {row["trial"]: row for row in rows_of(directory.path)}
    assert (rows[first]["state"], rows[first]["collapsed.code"]) == ("COMPLETE", True)
    assert (rows[second]["state"], rows[second]["stop_reason"]) == ("PRUNED", "diverged")


def test_a_confirmation_that_stopped_goes_on_with_what_is_missing_and_repeats_nothing(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    settings = Settings(top=2, seeds=2)
    with Run(directory, space, settings) as run:
        play_confirmation(run, lambda *_: 0.8, trials=1)
        interrupted = run.next_trial()
        run.receive(message(interrupted.number, 1, 0.5))  # and then the process is killed
    before = [event for event in read_events(directory.events)[0] if phase_of(event) == "confirm"]
    assert standing_of(directory, space).confirmed is False
    with Run(directory, space, settings) as run:
        assert run.work_left() and run.num_trials() == 4
        asked = play_confirmation(run, lambda *_: 0.8)
        run.close()
    assert asked[0] == (interrupted.number, interrupted.source, interrupted.seed)
    assert [number for number, *_ in asked] == [1, 2, 3]
    assert len({(row["source"], row["seed"]) for row in rows_of(directory.path)}) == 4
    assert complaints(directory, space) == [] and standing_of(directory, space).confirmed
    events = [event for event in read_events(directory.events)[0] if phase_of(event) == "confirm"]
    assert events[: len(before)] == before
    assert sum(event["kind"] == "finished" for event in events) == 4


def test_a_trial_that_was_queued_when_the_driver_died_is_run_once(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    with Run(directory, space, Settings(top=2, seeds=2)) as run:
        one, seed = missing(run.queue.wanted, run.queue.seeds, [])[0]
        attributes = {"source": one.number, "preset": one.preset, "seed": seed}
        run.study.optuna.enqueue_trial(dict(one.params), user_attrs=attributes)
    with Run(directory, space, Settings(top=2, seeds=2)) as run:
        assert run.num_trials() == 4
        play_confirmation(run, lambda *_: 0.8)
        run.close()
    assert (
        len(rows_of(directory.path)) == len({(r["source"], r["seed"]) for r in rows_of(directory.path)}) == 4
    )
    assert complaints(directory, space) == []


def test_larger_numbers_add_what_is_missing_and_smaller_ones_nothing(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    for settings, trials in ((Settings(1, 2), 4), (Settings(2, 3), 6), (Settings(1, 2), 6)):
        with Run(directory, space, settings) as run:
            play_confirmation(run, lambda *_: 0.8)
            run.close()
        assert len(rows_of(directory.path)) == trials
    assert confirmation_of(directory.journal, space)[0] == {"top": 1, "seeds": 2}


def test_seeds_are_added_until_the_verdict_is_clear_and_no_further(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    clear = {2: 0.9, 1: 0.5}
    with Run(directory, space, Settings(top=2, seeds=4, max_seeds=12)) as run:
        play_confirmation(run, lambda source, index: clear[source] + 0.001 * (index % 2 + source * index % 3))
        count = len(run.trials) // 2
        assert 4 <= count < 12 and not run.work_left()
        run.close()
    other = toy_run(tmp_path / "others" / "runs")
    with Run(*other, Settings(top=2, seeds=2, max_seeds=4)) as run:
        play_confirmation(run, lambda source, index: 0.5 + 0.01 * ((7 * index + 3 * source) % 5))
        assert len(run.trials) == 8  # never clear: all of them
        run.close()


def test_while_trials_run_that_decide_on_more_seeds_the_next_one_waits(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    with Run(directory, space, Settings(top=2, seeds=2, max_seeds=3)) as run:
        asked = [run.next_trial() for _ in range(4)]
        assert run.next_trial() is LATER
        for one in asked:
            play_confirmation(run, lambda source, index: 0.5 + 0.1 * (source * index % 2), only=one)
        assert run.next_trial() not in (None, LATER)


def test_a_search_that_goes_on_keeps_the_rows_of_its_confirmation(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    with Run(directory, space, Settings(top=2, seeds=2)) as run:
        play_confirmation(run, lambda *_: 0.8)
        run.close()
    confirmed = rows_of(directory.path)
    space = Run.stored_space(directory, extra_trials=1)
    with Run(directory, space) as run:
        for epoch, accuracy in enumerate((0.5, 0.6, 0.95, 0.97), start=1):
            if epoch == 1:
                number = run.next_trial().number
            run.receive({**message(number, epoch, accuracy), "done": epoch == 4})
        run.close()
    assert rows_of(directory.path) == confirmed
    assert complaints(directory, space) == []
    # The new best is not confirmed, so the confirmation no longer says what to use.
    summary = write_summary(directory, space)
    assert summary["best"]["trial"] == number and not summary["conclusion"]["current"]
    recommended = (directory.report / "recommended.yaml").read_text()
    assert "after the run's confirmation" in recommended and f"source: trial {number}" in recommended


def test_the_checker_finds_a_confirmation_that_lies(tmp_path):
    directory, space = toy_run(tmp_path / "runs")
    with Run(directory, space, Settings(top=2, seeds=2)) as run:
        play_confirmation(run, lambda *_: 0.8)
        run.close()
        honest = [*run.rows(), *run.other_rows]
        first = next(row for row in honest if row["phase"] == "confirm")
        others = [row for row in honest if row is not first]
        for lie, said in (
            ({"test.selection_accuracy": 0.9}, "test.selection_accuracy is 0.9, its rows give 0.8"),
            ({"objective": 0.9}, "objective is 0.9, its rows give 0.6"),
            ({"state": "PRUNED"}, "is PRUNED in trials.parquet, but COMPLETE in the study"),
            ({"epochs": 3}, "counts 3 epochs, epochs.parquet has 4"),
        ):
            run.recorder.write_trials([{**first, **lie}, *others])
            (complaint, *_) = complaints(directory, space)
            assert complaint.startswith("confirm trial 0: ") and said in complaint
        run.recorder.write_trials(others)
        assert complaints(directory, space) == [
            "confirm trial 0: is absent in trials.parquet, but COMPLETE in the study"
        ]


def test_a_space_named_confirm_keeps_two_studies(tmp_path):
    directory, space = toy_run(tmp_path / "runs", name="confirm")
    with Run(directory, space, Settings(top=2, seeds=2)) as run:
        play_confirmation(run, lambda *_: 0.8)
        run.close()
    assert len(study_trials(directory.journal, space)) == 6 and len(rows_of(directory.path)) == 4


# ---------------------------------------------------------------------- what is said


def confirmed_run(here: Path, score) -> tuple:
    directory, space = toy_run(here / "runs")
    with directory.locked(), Run(directory, space, Settings(top=2, seeds=6)) as run:
        play_confirmation(run, score)
        run.close()
    return directory, space


def test_no_reliable_difference_recommends_the_preset_and_a_reliable_one_the_winner(here: Path):
    for name, gain, recommended in (("level", 0.0, 1), ("better", 0.2, 2)):
        directory, space = confirmed_run(
            here / name, lambda s, i, gain=gain: 0.6 + gain * (s == 2) + 0.01 * ((5 * i + s * i * i) % 7)
        )
        summary = write_summary(directory, space)
        assert summary["conclusion"]["recommended"] == recommended
        stored = json.loads((directory.report / "summary.json").read_text())
        assert stored["conclusion"]["sentence"] == summary["conclusion"]["sentence"]
        text = (directory.report / "recommended.yaml").read_text()
        assert f"source: trial {recommended}" in text and "confirmed with fresh seeds" in text
        assert len((directory.report / "summary.csv").read_text().splitlines()) == 7  # the search alone


def test_confirm_of_a_confirmed_run_shows_the_result_and_trains_nothing(here: Path, capsys):
    directory, _ = confirmed_run(here, lambda s, i: 0.6 + 0.2 * (s == 2) + 0.01 * ((5 * i + s) % 7))
    before = len(rows_of(directory.path))
    assert main(["confirm", directory.name, "--engines", "1"]) == 0
    said = capsys.readouterr().out
    assert "everything is confirmed already" in said and "page was not written" not in said
    assert "beats bold [red] by" in (directory.report / "index.html").read_text()
    assert "Verdict: trial 2 beats bold [red] by 0." in said and "6 seeds" in said
    assert "bold [red] (trial 1)" in said and "recommended.yaml" in said
    assert len(rows_of(directory.path)) == before
    assert main(["check", directory.name]) == 0
    assert "confirmed by 12 trials" in capsys.readouterr().out


def test_resume_finishes_the_confirmation_that_a_space_asks_for_and_names_another(
    here: Path, capsys, monkeypatch
):
    monkeypatch.setattr(commands_run, "options_of", lambda *_: None)
    continued = []
    monkeypatch.setattr(commands_run, "_search", lambda *given: continued.append(given[1].name))
    asked, _ = toy_run(here / "asked" / "runs", confirm={"top": 2, "seeds": 2})
    other, space = toy_run(here / "other" / "runs")
    with Run(other, space, Settings(top=2, seeds=2)) as run:
        play_confirmation(run, lambda *_: 0.8, trials=1)
        run.close()
    assert main(["resume", str(asked.path)]) == 0 and continued == [asked.name]
    assert main(["resume", str(other.path)]) == 0 and continued == [asked.name]
    assert f"continue with: loss-search confirm other/runs/{other.name}" in capsys.readouterr().out
    assert main(["check", str(other.path)]) == 3
    with Run(asked, Run.stored_space(asked), Settings(top=2, seeds=2)) as run:
        play_confirmation(run, lambda *_: 0.8)
        run.close()
    assert main(["resume", str(asked.path)]) == 0 and continued == [asked.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent"], "no such run"),
        (["RUN", "--top", "0"], "--top 0"),
        (["RUN", "--seeds", "1"], "--seeds 1"),
        (["RUN", "--max-seeds", "3"], "--max-seeds 3: must be at least --seeds (5)"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(here: Path, capsys, arguments, said):
    directory, _ = toy_run(here / "runs")
    before = {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()}
    assert main(["confirm", *(directory.name if one == "RUN" else one for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in directory.path.rglob("*") if path.is_file()} == before


def test_a_search_that_has_chosen_nothing_yet_cannot_be_confirmed(here: Path, capsys):
    directory, _ = toy_run(here / "runs", trials=2)  # one complete trial
    assert main(["confirm", directory.name]) == 2
    assert "1 of its trials are complete, and it takes 2" in capsys.readouterr().err


def test_show_export_and_explain_stay_about_the_search(here: Path, capsys):
    directory, _ = toy_run(here / "runs")
    said = []
    for _ in range(2):
        for command in (["show", directory.name, "2"], ["explain", directory.name, "1"]):
            assert main(command) == 0
        said.append(capsys.readouterr().out)
        with Run(directory, Run.stored_space(directory), Settings(top=2, seeds=2)) as run:
            play_confirmation(run, lambda *_: 0.1)
            run.close()
    assert said[0] == said[1]
    main(["show", directory.name])
    assert "confirmed by 4 trials with fresh seeds" in capsys.readouterr().out
    assert main(["export", directory.name, "--to", "out"]) == 0
    trials = (here / "out" / "trials.csv").read_text().splitlines()
    assert len(trials) == 7 and "test." not in trials[0] and "source" not in trials[0]
    assert len((here / "out" / "confirm_trials.csv").read_text().splitlines()) == 5
    assert set(os.listdir(here / "out")) >= {"confirm_epochs.csv", "model.pt"} - {"model.pt"}


def test_tensorboard_shows_a_confirmation_beside_the_search(here: Path, monkeypatch):
    directory, space = toy_run(here / "runs")
    shown = []
    monkeypatch.setattr(
        "os.execv", lambda program, command: shown.append(command[command.index("--logdir") + 1])
    )
    assert main(["tensorboard", directory.name]) == 0
    with Run(directory, space, Settings(top=2, seeds=2)) as run:
        play_confirmation(run, lambda *_: 0.8)
        run.close()
    assert main(["tensorboard", directory.name]) == 0
    assert shown == [str(directory.trials), str(directory.path)]
