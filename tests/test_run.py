"""A run without Ray: what each row leads to, and what a driver that died leaves to the next."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from toy_run import message, play, toy_space

from search.cli import main
from search.errors import BadInput, DamagedRun
from search.events import read_events
from search.record import read_epochs, read_trials
from search.run import Run
from search.run_directory import RunDirectory
from search.space import fingerprint_of


def placed(trial: int, epoch: int, accuracy: float, epochs: int = 4, **flags) -> dict:
    """A report as it reaches the driver."""
    return {
        **message(trial, epoch, accuracy, **flags),
        "engine": "engine-0",
        "slot": 0,
        "done": epoch >= epochs,
    }


def opened(tmp_path, **changes) -> tuple[RunDirectory, Run]:
    space = toy_space(tmp_path, **changes)
    directory = Run.create(space, tmp_path / "runs")
    return directory, Run(directory, space)


def state_of(run: Run, number: int) -> tuple[str, str]:
    trial = run.study.trials()[number]
    return trial.state.name, trial.user_attrs["stop_reason"]


@pytest.mark.parametrize(
    ("stop", "curve", "flags", "expected"),
    [
        ({}, [0.1, 0.2, 0.3, 0.4], {}, ("COMPLETE", "completed")),
        (
            {"plateau": {"patience": 2, "min_delta": 0.01, "warmup": 0}},
            [0.5, 0.5, 0.5],
            {},
            ("COMPLETE", "plateau"),
        ),
        ({"target": {"target": 0.4}}, [0.1, 0.4], {}, ("COMPLETE", "target_reached")),
        ({"collapse": {"warmup": 0, "patience": 2}}, [0.5, 0.5], {"code": 1.0}, ("PRUNED", "collapse:code")),
        ({"time": {"seconds": 1}}, [0.1, 0.2], {}, ("PRUNED", "over_budget")),
        ({}, [0.1], {"diverged": True}, ("PRUNED", "diverged")),
    ],
)
def test_each_rule_ends_a_trial_with_its_state_and_reason(tmp_path, stop, curve, flags, expected):
    base = {"prune": "off", "plateau": "off", "collapse": "off"}
    _, run = opened(tmp_path, stop={**base, **stop})
    with run:
        run.next_trial()
        ends = [run.receive(placed(0, epoch, value, **flags)) for epoch, value in enumerate(curve, start=1)]
        assert ends == [False] * (len(curve) - 1) + [True]
        assert state_of(run, 0) == expected


def test_a_complete_trial_is_told_its_best_epoch(tmp_path):
    _, run = opened(tmp_path)
    with run:
        run.next_trial()
        for epoch, value in enumerate([0.2, 0.7, 0.6, 0.5], start=1):
            run.receive(placed(0, epoch, value))
        assert run.study.trials()[0].value == 0.7
        assert run.study.trials()[0].user_attrs["best_epoch"] == 2


def test_a_row_that_comes_twice_counts_once(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        run.next_trial()
        run.receive(placed(0, 1, 0.2))
        run.receive(placed(0, 1, 0.2))
        run.close()
    assert read_epochs(directory.path).num_rows == 1


def test_a_trial_that_failed_keeps_its_traceback_in_the_log_and_its_last_line_in_the_record(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        run.next_trial()
        error = "Traceback (most recent call last):\n  ...\nRuntimeError: out of cheese\n"
        assert run.receive({"trial": 0, "failed": "raised", "error": error, "retries": 2})
        assert state_of(run, 0) == ("FAIL", "raised")
        (row,) = [row for row in run.study.trials() if row.number == 0]
        assert row.user_attrs["error"] == "RuntimeError: out of cheese"
        assert row.user_attrs["retries"] == 2
    events, _ = read_events(directory.events)
    assert [event["error"] for event in events if event["kind"] == "finished"] == [error]


def test_a_trial_that_was_running_is_continued_first_with_its_own_parameters(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        first = [run.next_trial() for _ in range(3)]
        run.receive(placed(2, 1, 0.2))
    with Run(directory, run.space) as again:
        asked = [again.next_trial() for _ in range(4)]
        assert [a.number for a in asked] == [0, 1, 2, 3]
        assert [a.params for a in asked[:3]] == [a.params for a in first]
        assert again.job(asked[2])["reported"] == 1


def test_a_row_that_reached_the_log_and_not_the_study_is_reported_on_resume(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        run.next_trial()
        run.receive(placed(0, 1, 0.2))
        run.events.append({"kind": "reported", "row": {**run.trials[0].rows[0], "epoch": 2}})
    with Run(directory, run.space) as again:
        assert set(again.study.trials()[0].intermediate_values) == {1, 2}
        assert len(again.trials[0].rows) == 2
        again.close()
    assert read_epochs(directory.path).num_rows == 2


def test_a_trial_whose_last_row_decided_it_is_ended_on_resume_and_not_trained_again(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        run.next_trial()
        for epoch in (1, 2, 3):
            run.receive(placed(0, epoch, 0.2))
        run.events.append({"kind": "reported", "row": {**run.trials[0].rows[0], "epoch": 4}})
    with Run(directory, run.space) as again:
        assert state_of(again, 0) == ("COMPLETE", "completed")
        assert again.next_trial().number == 1


def test_an_end_that_the_study_knows_and_the_log_does_not_is_logged_on_resume(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        run.next_trial()
        run.receive(placed(0, 1, 0.2))
        run.study.tell(0, "PRUNED", None, "successive_halving")
    for _ in range(2):  # once, however often it is opened
        with Run(directory, run.space) as again:
            assert again.next_trial().number == 1
            again.interrupted = True
    events, _ = read_events(directory.events)
    assert [event["trial"] for event in events if event["kind"] == "finished"] == [0]


def test_an_edited_space_is_refused_with_what_to_do(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        pass
    text = directory.space.read_text()
    directory.space.write_text(text.replace("epochs: 4", "epochs: 5"))
    with pytest.raises(DamagedRun, match="was edited since the run began"):
        Run.stored_space(directory)


def test_a_run_from_before_its_family_had_a_setting_is_read_and_extended(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        pass
    written = yaml.safe_load(directory.space.read_text())
    del written["data"]["noise"]  # as a version wrote it whose family had no such setting
    directory.space.write_text(yaml.safe_dump(written))
    about = json.loads(directory.environment.read_text())
    about["fingerprint"] = fingerprint_of(written)
    directory.environment.write_text(json.dumps(about))
    for extra in (0, 5, 0):
        space = Run.stored_space(directory, extra_trials=extra)
        assert space.data["noise"] == space.family.data_settings["noise"].default
    assert space.budget.trials == 11
    written["data"]["seed"] = 7
    directory.space.write_text(yaml.safe_dump(written))
    with pytest.raises(DamagedRun, match="was edited since the run began"):
        Run.stored_space(directory)


def test_more_trials_extend_a_run_for_good(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        pass
    assert Run.stored_space(directory, extra_trials=5).budget.trials == 11
    assert Run.stored_space(directory).budget.trials == 11


def test_a_second_driver_is_refused_while_the_first_lives(tmp_path):
    directory, run = opened(tmp_path)
    with run, directory.locked(), pytest.raises(BadInput, match="another loss-search"), directory.locked():
        pass
    with directory.locked():  # and a lock that was left behind holds nobody
        pass


def test_a_clock_that_jumps_back_an_hour_at_every_look_changes_nothing_but_the_times(
    tmp_path, monkeypatch, capsys
):
    """Between and inside trials, and for the driver that resumes: order is by sequence and epoch."""
    records = {}
    for name in ("steady", "jumping"):
        (tmp_path / name).mkdir()
        now = itertools.count(1_800_000_000, -3600 if name == "jumping" else 1)
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda now=now: float(next(now)))
            space = toy_space(tmp_path / name)
            directory = Run.create(space, tmp_path / name / "runs")
            for _ in range(2):  # the second driver finishes what the first began
                with directory.locked(), Run(directory, space) as run:
                    play(run, 3)
                    run.close()
        assert main(["check", str(directory.path)]) == 0, capsys.readouterr().err
        records[name] = [
            {key: value for key, value in row.items() if not key.endswith("_at")}
            for row in read_trials(directory.path).to_pylist()
        ]
        numbers = [event["sequence"] for event in read_events(directory.events)[0]]
        assert numbers == sorted(numbers)
    assert records["jumping"] == records["steady"]


@pytest.mark.parametrize("name", ["../escaped", "a/b", "", ".hidden", "-dash", "x" * 300, "naïve"])
def test_a_run_name_never_leaves_its_directory(tmp_path, name):
    with pytest.raises(BadInput, match="run name"):
        RunDirectory.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_no_run_and_a_newer_run_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DamagedRun, match="is no run directory"):
        RunDirectory.open(str(tmp_path / "empty"), tmp_path)
    with pytest.raises(BadInput, match="no such run"):
        RunDirectory.open("missing", tmp_path)
    directory, run = opened(tmp_path)
    with run:
        pass
    directory.environment.write_text('{"format": 99, "versions": {"loss-search": "9.0"}}')
    with pytest.raises(DamagedRun, match=r"9\.0 in format 99.*upgrade"):
        RunDirectory.open(str(directory.path), tmp_path)


def test_a_trial_that_levels_off_at_its_last_epoch_had_its_whole_budget(tmp_path):
    stop = {"prune": "off", "collapse": "off", "plateau": {"patience": 3, "min_delta": 0.01, "warmup": 0}}
    _, run = opened(tmp_path, stop=stop)
    with run:
        run.next_trial()
        for epoch in (1, 2, 3, 4):
            run.receive(placed(0, epoch, 0.5))
        assert state_of(run, 0) == ("COMPLETE", "completed")


def test_a_run_that_is_stopped_cleanly_has_its_epochs_in_one_file(tmp_path):
    directory, run = opened(tmp_path)
    with run:
        run.next_trial()
        run.receive(placed(0, 1, 0.2))
        run.close()
    assert (directory.path / "epochs.parquet").exists()
    assert not (directory.path / "epochs").exists()
    with Run(directory, run.space) as again:
        again.next_trial()
        again.receive(placed(0, 2, 0.3))
        again.close()
    assert read_epochs(directory.path).num_rows == 2
