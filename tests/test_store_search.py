"""Whole searches with a real Ray whose runs lie on a real S3 server: what is left, and what faults cost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from s3_server import BUCKET, KEY, SECRET, S3Server
from searches import (
    HERE,
    command,
    end_all,
    environment,
    events_of,
    processes_below,
    start,
    ticks,
    write_space,
)
from toy_run import message, toy_space

from search.record import read_epochs
from search.run import Run
from search.run_directory import RunDirectory
from search.storage import pieces_in

pytestmark = pytest.mark.slow

OUT = f"s3://{BUCKET}/team/runs"
AFTER_S = 16.5  # from its start, somewhere between two uploads
COST_S = 30.0  # what the loss of the driver's machine may cost


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with S3Server() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
        end_all()


def run(*arguments: object, cwd: Path, expect: int = 0) -> str:
    done = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == expect, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def working_copy(process: subprocess.Popen, tmp_path: Path, rows: int) -> Path:
    """The driver's copy on this machine, once it has so many rows."""
    for _ in ticks(180.0):
        assert process.poll() is None, process.communicate()[0]
        found = list((tmp_path / "state").glob("loss-search/*/*/events.jsonl"))
        if found and len(events_of(found[0].parent, "reported")) >= rows:
            return found[0].parent
    raise AssertionError("no rows in time")


def rows_by_time(events: list[dict]) -> dict[tuple[int, int], float]:
    """When each row was reported; each must be there once."""
    found = {(event["row"]["trial"], event["row"]["epoch"]): event["time"] for event in events}
    assert len(found) == len(events)
    return found


def _there(server: S3Server, copy: Path, folder: Path) -> list[dict]:
    """The reports that the store has."""
    objects = server.objects(f"team/runs/{copy.name}/events.jsonl.pieces")
    names = {key.removeprefix(f"team/runs/{copy.name}/"): body for key, body in objects.items()}
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_bytes(
        b"".join(names[piece] for piece in pieces_in(names).get("events.jsonl", []))
    )
    return events_of(folder, "reported")


def test_a_search_into_s3_survives_a_store_that_is_away_and_writes_no_secret(server, tmp_path):
    space = write_space(
        tmp_path, data={"source": "synthetic", "size": 4096}, budget={"trials": 10, "epochs": 25}
    )
    process = start("run", space, "--out", OUT, cwd=tmp_path)
    copy = working_copy(process, tmp_path, 3)
    name, before = copy.name, len(events_of(copy, "reported"))
    server.relay.cut()
    time.sleep(20)
    assert process.poll() is None and len(events_of(copy, "reported")) > before, "the search waited"
    server.relay.join()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert "cannot be written" in output and "can be written again after" in output
    assert not copy.exists(), "the working copy stays when everything is in the store"
    assert "whole; finished, 10 of 10 trials ended" in run("check", f"{OUT}/{name}", cwd=tmp_path)
    assert f"{OUT}/{name}/trials/3/model.pt" in run("show", f"{OUT}/{name}", 3, cwd=tmp_path)
    run("fetch", f"{OUT}/{name}", "--to", "home", cwd=tmp_path)
    home = tmp_path / "home" / name
    assert json.loads((home / "report" / "summary.json").read_text())["trials"] == 10
    assert len(list(home.glob("trials/*/model.pt"))) == 1 and len(read_epochs(home)) == 250
    stored = {key for key in server.objects(f"team/runs/{name}") if not key.endswith("/")}
    for trial in range(10):
        kept = {key.partition(f"/trials/{trial}/")[2] for key in stored if f"/trials/{trial}/" in key}
        assert {"config.yaml", "model.pt", "run.log", "facts/best.json"} <= kept and "last.pt" not in kept
        assert any(name.startswith("figures/") for name in kept)
    assert not any("/lock/" in key or "/epochs/" in key for key in stored)
    _has_no_secret(server, tmp_path, output)


def _has_no_secret(server: S3Server, tmp_path: Path, output: str) -> None:
    """Every byte that the search has written, wherever."""
    for secret in (SECRET, KEY):
        assert secret not in output
        assert not [key for key, body in server.objects().items() if secret.encode() in body]
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) > 10 and not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_driver_that_is_killed_with_its_disk_loses_only_the_last_seconds(server, tmp_path):
    """A driver that gets ten rows a second, killed with its disk; and the run goes on elsewhere."""
    path = toy_space(tmp_path, budget={"trials": 40, "epochs": 5}) and tmp_path / "toy.yaml"
    driver = [sys.executable, HERE / "toy_driver.py", OUT, path]
    process = subprocess.Popen(driver, env=environment(), stdout=subprocess.PIPE, text=True)
    copy = Path(process.stdout.readline().strip())
    time.sleep(AFTER_S)
    process.kill()
    lost_at = time.time()
    process.wait()
    process.stdout.close()
    had, kept = (
        rows_by_time(events_of(copy, "reported")),
        rows_by_time(_there(server, copy, tmp_path / "there")),
    )
    shutil.rmtree(tmp_path / "state")
    lost = {key: lost_at - told for key, told in had.items() if key not in kept}
    assert kept.keys() <= had.keys() and len(had) > 3 * AFTER_S
    assert all(age <= COST_S for age in lost.values()), lost
    oldest = max(lost.values(), default=0)
    print(f"{len(had)} rows, {len(lost)} lost, the oldest {oldest:.1f} s old")
    with RunDirectory.held(f"{OUT}/{copy.name}", Path("runs")) as again, again.locked():
        space = Run.stored_space(again)
        with Run(again, space) as resumed:
            while (asked := resumed.next_trial()) is not None:
                for epoch in range(len(resumed.trials[asked.number].rows) + 1, 6):
                    resumed.receive(message(asked.number, epoch, 0.5 + 0.001 * epoch))
            resumed.close()
    assert "whole; finished, 40 of 40 trials ended" in run("check", f"{OUT}/{copy.name}", cwd=tmp_path)
    everything = rows_by_time(_there(server, copy, tmp_path / "again"))
    assert len(everything) == 200 and kept.items() <= everything.items()


def test_a_lost_machine_costs_at_most_thirty_seconds_of_results(server, tmp_path):
    space = write_space(
        tmp_path, data={"source": "synthetic", "size": 4096}, budget={"trials": 8, "epochs": 25}
    )
    process = start("run", space, "--out", OUT, cwd=tmp_path)
    copy = working_copy(process, tmp_path, 1)
    time.sleep(AFTER_S)
    below = processes_below(process.pid)
    assert process.poll() is None, process.communicate()[0]
    for pid in (process.pid, *below):  # the machine with everything on it
        _kill(pid)
    lost_at = time.time()
    process.communicate()
    had, kept = (
        rows_by_time(events_of(copy, "reported")),
        rows_by_time(_there(server, copy, tmp_path / "there")),
    )
    shutil.rmtree(tmp_path / "state")
    lost = {key: lost_at - told for key, told in had.items() if key not in kept}
    oldest = max(lost.values(), default=0)
    print(f"{len(had)} rows were reported, {len(lost)} lost, the oldest {oldest:.1f} s old")
    assert kept and kept.keys() <= had.keys()
    assert all(age <= COST_S for age in lost.values()), lost
    output = run("resume", f"{OUT}/{copy.name}", cwd=tmp_path)
    assert "8 of 8 trials ended" in output
    assert "whole; finished, 8 of 8 trials ended" in run("check", f"{OUT}/{copy.name}", cwd=tmp_path)
    everything = rows_by_time(_there(server, copy, tmp_path / "again"))
    assert len(everything) == 200 and kept.items() <= everything.items()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
