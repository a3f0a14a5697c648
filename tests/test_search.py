"""Whole searches with a real Ray: what a user types, what is left behind, and what survives faults."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from searches import (
    alive,
    end_all,
    events_of,
    listening_beyond_loopback,
    only_run,
    processes_below,
    run,
    start,
    ticks,
    wait_for_rows,
    write_space,
)

pytestmark = pytest.mark.slow

LARGER = {"source": "synthetic", "size": 4096}  # epochs long enough to be interrupted


@pytest.fixture(autouse=True)
def _nothing_is_left_running():
    yield
    end_all()


def study_of(run_dir: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(run_dir / "study.journal"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def epochs_of(run_dir: Path) -> list[tuple[int, int]]:
    table = pq.read_table(run_dir / "epochs.parquet")
    return list(zip(table["trial"].to_pylist(), table["epoch"].to_pylist(), strict=True))


def whole(run_dir: Path, trials: int) -> None:
    """What must hold of every finished run, whatever happened to it."""
    rows = pq.read_table(run_dir / "trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == list(range(trials))
    states = [trial.state.name for trial in study_of(run_dir).trials]
    assert [row["state"] for row in rows] == states
    assert not {"RUNNING", "WAITING"} & set(states)
    assert all(row["stop_reason"] for row in rows)
    keys = epochs_of(run_dir)
    assert keys == sorted(set(keys)), "a row is there twice"
    reported = {(event["row"]["trial"], event["row"]["epoch"]) for event in events_of(run_dir, "reported")}
    assert reported == set(keys), "a reported row is lost"
    for row in rows:
        assert [epoch for trial, epoch in keys if trial == row["trial"]] == list(range(1, row["epochs"] + 1))
    finished = [event["trial"] for event in events_of(run_dir, "finished")]
    assert sorted(finished) == list(range(trials)), "a trial ended twice, or never"
    run("check", run_dir, cwd=run_dir)


def test_a_search_leads_from_a_space_to_a_recommendation_and_leaves_nothing_running(tmp_path):
    space = write_space(
        tmp_path,
        start_from=[{"name": "habit", "penalty.weight": 0.5, "optim.lr": 0.01}],
        budget={"trials": 7, "epochs": 8},
        stop={"prune": {"rule": "successive_halving", "min_epochs": 2, "reduction": 2}},
    )
    process = start("run", space, cwd=tmp_path)
    run_dir = wait_for_rows(tmp_path, 1)
    below = list(processes_below(process.pid))
    assert len(below) > 5, "no Ray was found below the command"
    assert listening_beyond_loopback([process.pid, *below]) == []
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    for _ in ticks(20):
        if not alive(below):
            break
    assert alive(below) == []
    whole(run_dir, 7)
    study = study_of(run_dir)
    assert study.trials[0].user_attrs["preset"] == "habit"
    assert study.trials[0].params == {"penalty.weight": 0.5, "penalty.schedule": "constant", "optim.lr": 0.01}
    assert study.trials[0].state.name == "COMPLETE", "a preset is never pruned"
    for trial in study.trials:
        directory = run_dir / "trials" / str(trial.number)
        assert list(directory.glob("events.out.tfevents.*"))
        assert not (directory / "last.pt").exists()
        state = torch.load(directory / "model.pt", weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        assert (directory / "figures" / "reconstructions_best.png").stat().st_size > 100
        assert list(trial.intermediate_values) == list(range(1, trial.user_attrs["epochs"] + 1))
    chatter = ("raylet", "pid=", "INFO", "WARNING", "Traceback", "ray.io", "core_worker")
    assert not [word for word in chatter if word in output], output
    recommended = run_dir / "report" / "recommended.yaml"
    assert yaml.safe_load(recommended.read_text())["family"] == "tiny_family:TINY"
    run("train", "tiny_family:TINY", "--config", recommended, "--out", tmp_path / "model", cwd=tmp_path)
    assert torch.load(tmp_path / "model" / "model.pt", weights_only=True).keys() == state.keys()
    assert "finished" in run("resume", run_dir, cwd=tmp_path)


def test_with_one_engine_and_one_slot_a_seed_repeats_a_search_exactly(tmp_path):
    columns = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        space = write_space(tmp_path / name, budget={"trials": 14, "epochs": 3})
        run("run", space, "--engines", 1, "--slots", 1, "--seed", 5, cwd=tmp_path / name)
        table = pq.read_table(only_run(tmp_path / name) / "trials.parquet")
        wanted = [
            c for c in table.column_names if c.startswith(("knob.", "objective", "final.", "state", "epochs"))
        ]
        columns.append(table.select(wanted).to_pylist())
    assert columns[0] == columns[1]
    said = run("compare", *(only_run(tmp_path / name) for name in ("first", "second")), cwd=tmp_path)
    assert "B - A: all 14 equal to the last digit." in said
    assert "What differs" not in said


def test_two_workers_of_an_engine_give_what_one_gives_and_slots_are_refilled(tmp_path):
    objectives = {}
    for name, options in {
        "one": ["--engines", 1, "--slots", 1],
        "workers": ["--workers-per-engine", 2],
        "stack": ["--engines", 1, "--slots", 3],
    }.items():
        (tmp_path / name).mkdir()
        space = write_space(
            tmp_path / name, search={"sampler": "random", "seed": 3}, budget={"trials": 8, "epochs": 4}
        )
        run("run", space, *options, cwd=tmp_path / name)
        run_dir = only_run(tmp_path / name)
        whole(run_dir, 8)
        rows = pq.read_table(run_dir / "epochs.parquet").to_pylist()
        objectives[name] = {(row["trial"], row["epoch"]): row["val.error"] for row in rows}
        if name == "stack":
            assert len({row["slot"] for row in rows}) == 3
    for name in ("workers", "stack"):
        assert objectives[name] == pytest.approx(objectives["one"], rel=1e-4)


def test_a_killed_driver_loses_nothing_and_resume_finishes_the_search(tmp_path):
    space = write_space(tmp_path, budget={"trials": 6, "epochs": 12}, data=LARGER)
    process = start("run", space, cwd=tmp_path)
    run_dir = wait_for_rows(tmp_path, random.randint(3, 40))
    below = processes_below(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    # Ray's two agents first wait a minute for the server that died with the driver.
    working = [pid for pid, title in below.items() if "Agent" not in title]
    for _ in ticks(20):
        if not alive(working):
            break
    assert alive(working) == [], "processes outlive the driver"
    before = {(event["row"]["trial"], event["row"]["epoch"]) for event in events_of(run_dir, "reported")}
    ended = {event["trial"] for event in events_of(run_dir, "finished")}
    run("resume", run_dir, cwd=tmp_path)
    whole(run_dir, 6)
    assert before <= set(epochs_of(run_dir))
    started_again = [event["trial"] for event in events_of(run_dir, "started")]
    assert not [trial for trial in ended if started_again.count(trial) > 1], "a finished trial ran again"


def test_an_interrupt_ends_cleanly_names_the_resume_command_and_resume_goes_on(tmp_path):
    space = write_space(tmp_path, budget={"trials": 3, "epochs": 25}, data=LARGER)
    process = start("run", space, "--engines", 1, cwd=tmp_path)
    run_dir = wait_for_rows(tmp_path, 10)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 3, output
    assert f"loss-search resume runs/{run_dir.name}" in output, output
    assert list(run_dir.glob("trials/*/last.pt"))
    continued = len(events_of(run_dir, "reported"))
    run("resume", run_dir, "--engines", 1, cwd=tmp_path)
    whole(run_dir, 3)
    assert len(events_of(run_dir, "reported")) > continued
    logs = "".join(path.read_text() for path in run_dir.glob("trials/*/run.log"))
    assert "continues after epoch" in logs


def test_a_signal_while_ray_starts_ends_resumably_and_before_any_engine_starts(tmp_path):
    process = start("run", write_space(tmp_path), cwd=tmp_path)
    said = ""
    while "starting Ray" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 3, output
    assert f"continue with: loss-search resume runs/{only_run(tmp_path).name}" in output
    run("check", only_run(tmp_path), cwd=tmp_path, expect=3)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_an_engine_that_dies_or_stands_still_is_replaced_and_its_trials_go_on(
    tmp_path, monkeypatch, fault: signal.Signals
):
    monkeypatch.setenv("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "8")  # of standing still; 60 by default
    space = write_space(tmp_path, budget={"trials": 4, "epochs": 40}, data=LARGER)
    process = start("run", space, cwd=tmp_path)
    run_dir = wait_for_rows(tmp_path, 6)
    engines = [pid for pid, title in processes_below(process.pid).items() if "RayTrainWorker" in title]
    os.kill(engines[0], fault)
    output, _ = process.communicate(timeout=150)
    assert process.returncode == 0, output
    assert alive([engines[0]]) == []
    whole(run_dir, 4)
    assert events_of(run_dir, "retried")
    assert max(pq.read_table(run_dir / "trials.parquet")["retries"].to_pylist()) == 1


def test_a_killed_broker_ends_the_search_resumably_and_loses_nothing(tmp_path):
    space = write_space(tmp_path, budget={"trials": 3, "epochs": 12}, data=LARGER)
    process = start("run", space, "--engines", 1, cwd=tmp_path)
    run_dir = wait_for_rows(tmp_path, 6)
    brokers = [pid for pid, title in processes_below(process.pid).items() if "Broker" in title]
    os.kill(brokers[0], signal.SIGKILL)
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 3, output
    assert "the broker between trials and engines died" in output, output
    before = {(event["row"]["trial"], event["row"]["epoch"]) for event in events_of(run_dir, "reported")}
    run("resume", run_dir, "--engines", 1, cwd=tmp_path)
    whole(run_dir, 3)
    assert before <= set(epochs_of(run_dir))


def test_a_family_that_raises_fails_its_own_trials_and_no_others(tmp_path):
    space = write_space(
        tmp_path,
        family="raising_family:RAISING",
        search={"sampler": "grid"},
        knobs={"penalty.weight": {"choice": [0.1, 0.2, 7.0, 0.3]}},
        experiment={
            "compare": "penalty.weight",
            "checks": [{"says": "learns", "value": "selection_accuracy", "at_least": 0.0}],
            "expect": [{"says": "7 learns", "value": "error", "falls": {"penalty.weight": [0.1, 7.0]}}],
        },
    )
    said = run("run", space, "--slots", 2, "--engines", 1, cwd=tmp_path)
    assert [line.split()[:2] for line in said.splitlines() if line.startswith(("0.1 ", "7 "))][-2:] == [
        ["0.1", "yes"],
        ["7", "no"],
    ], "the one that failed has no data"
    assert "not enough data  7 learns" in said
    run_dir = only_run(tmp_path)
    whole(run_dir, 4)
    rows = {row["knob.penalty.weight"]: row for row in pq.read_table(run_dir / "trials.parquet").to_pylist()}
    assert rows[7.0]["state"] == "FAIL"
    assert rows[7.0]["stop_reason"] == "raised"
    assert "this family cannot do 7" in rows[7.0]["error"]
    assert [rows[weight]["state"] for weight in (0.1, 0.2, 0.3)] == ["COMPLETE"] * 3
    assert "Traceback" in (run_dir / "run.log").read_text()
