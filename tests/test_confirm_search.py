"""Confirmations with a real Ray: at the end of a search, by themselves, and through a kill."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from searches import end_all, events_of, only_run, run, start, ticks, write_space

from search.events import phase_of

pytestmark = pytest.mark.slow

HABIT = [{"name": "habit", "penalty.weight": 0.5, "optim.lr": 0.001}]
LARGER = {"source": "synthetic", "size": 4096}  # epochs long enough to be interrupted


@pytest.fixture(autouse=True)
def _nothing_is_left_running():
    yield
    end_all()


def confirmed(run_dir: Path, kind: str) -> list:
    return [event for event in events_of(run_dir, kind) if phase_of(event) == "confirm"]


def whole(run_dir: Path, seeds: int) -> list[dict]:
    """What must hold of a finished confirmation, whatever happened to it; its rows of trials.parquet."""
    trials = pq.read_table(run_dir / "trials.parquet").to_pylist()
    rows = [row for row in trials if row["phase"] == "confirm"]
    sources = {row["source"] for row in rows}
    pairs = [(row["source"], row["seed"]) for row in rows]
    assert len(pairs) == len(set(pairs)) == seeds * len(sources), "a trial was repeated, or is missing"
    searched = {row["seed"] for row in trials if row["phase"] == "search"}
    assert len({row["seed"] for row in rows}) == seeds and not searched & {row["seed"] for row in rows}
    epochs = [
        row for row in pq.read_table(run_dir / "epochs.parquet").to_pylist() if row["phase"] == "confirm"
    ]
    keys = [(row["trial"], row["epoch"]) for row in epochs]
    reported = [(event["row"]["trial"], event["row"]["epoch"]) for event in confirmed(run_dir, "reported")]
    assert sorted(keys) == sorted(set(keys)) == sorted(reported), "a row is lost, or there twice"
    finished = [event["trial"] for event in confirmed(run_dir, "finished")]
    assert sorted(finished) == [row["trial"] for row in rows], "a trial ended twice, or never"
    last = {row["trial"]: row for row in epochs}
    for row in rows:
        assert (row["state"], row["stop_reason"]) == ("COMPLETE", "completed")
        assert row["test.selection_accuracy"] == last[row["trial"]]["test.selection_accuracy"] is not None
        folder = run_dir / "confirm" / str(row["trial"])
        assert list(folder.glob("events.out.tfevents.*")) and (folder / "model.pt").exists()
        assert not (folder / "last.pt").exists()
    run("check", run_dir, cwd=run_dir)
    return rows


def test_a_run_confirms_what_its_space_asks_for_on_the_same_engines_and_says_what_to_use(tmp_path):
    space = write_space(tmp_path, start_from=HABIT, confirm={"top": 2, "seeds": 2, "max_seeds": 3})
    output = run("run", space, "--slots", 2, cwd=tmp_path)
    run_dir = only_run(tmp_path)
    rows = whole(
        run_dir, len({row["seed"] for row in pq.read_table(run_dir / "trials.parquet").to_pylist()}) - 1
    )
    assert {None, "habit"} == {row["preset"] for row in rows}
    pids = {
        line.split()[-1] for line in (run_dir / "run.log").read_text().splitlines() if "Ray runs at" in line
    }
    assert len(pids) == 1, "the confirmation started a Ray of its own"
    assert "Verdict: " in output and "Optimism: " in output, output
    recommended = yaml.safe_load((run_dir / "report" / "recommended.yaml").read_text())
    assert recommended["source"] in {f"trial {row['source']}" for row in rows}
    assert "Traceback" not in (run_dir / "run.log").read_text()


def test_a_confirmation_survives_kill_and_interrupt_and_repeats_no_finished_trial(tmp_path):
    space = write_space(tmp_path, start_from=HABIT, budget={"trials": 4, "epochs": 10}, data=LARGER)
    run("run", space, "--engines", 1, cwd=tmp_path)
    run_dir = only_run(tmp_path)
    arguments = ("confirm", run_dir, "--top", 2, "--seeds", 3, "--engines", 1)
    for ends_with, rows in ((signal.SIGKILL, random.randint(8, 25)), (signal.SIGINT, random.randint(30, 60))):
        process = start(*arguments, cwd=tmp_path)
        for _ in ticks():
            if len(confirmed(run_dir, "reported")) >= rows:
                break
        process.send_signal(ends_with)
        output, _ = process.communicate(timeout=60)
        if ends_with == signal.SIGINT:
            assert process.returncode == 3, output
            assert f"loss-search confirm runs/{run_dir.name}" in output, output
        run("check", run_dir, cwd=tmp_path, expect=3)
        before = {(event["row"]["trial"], event["row"]["epoch"]) for event in confirmed(run_dir, "reported")}
    output = run("confirm", run_dir, "--engines", 1, cwd=tmp_path)  # with the settings that it began with
    rows = whole(run_dir, 3)
    assert before <= {
        (event["row"]["trial"], event["row"]["epoch"]) for event in confirmed(run_dir, "reported")
    }
    logs = "".join(path.read_text() for path in run_dir.glob("confirm/*/run.log"))
    assert "continues after epoch" in logs
    assert "Verdict: " in output and len(rows) == 9 - 3 * (len({row["source"] for row in rows}) == 2)
