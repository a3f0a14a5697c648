"""Faults of real searches, and what they cost.

    python tests/bench/faults.py --kills 20 --seed 0
    python tests/bench/faults.py --worker stopped-engine stopped-rank killed-rank killed-proxy

The first kills the driver of one search again and again at random moments, resumes it each time, and counts
what was lost. The second stops or kills one process of a search each, which has to finish by itself. Prints a
line a kill and at the end: rows that were reported before a fault, rows lost, rows twice, trials run again
after their end, and what `loss-search check` says. Exit code 0 when nothing was lost. One kill in three comes
within 20 seconds of the command's start, so that start-up is hit, the others within 12 seconds of its first
new row: training, the end of trials, and the refill of slots.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from searches import (  # noqa: E402  needs the path above
    command,
    end_all,
    environment,
    events_of,
    processes_below,
    start,
    wait_for_rows,
    write_space,
)

TRIALS, EPOCHS = 12, 150
AT_START = 1 / 3  # share of the kills
STARTING_S, TRAINING_S = 20.0, 12.0
LIMIT_S = 1500  # of the last resume, which trains most of the search
WORKERS = {  # signal, title of the process, options of the search
    "stopped-engine": (signal.SIGSTOP, "RayTrainWorker", ("--workers-per-engine", 1)),
    "stopped-rank": (signal.SIGSTOP, "RayTrainWorker", ("--workers-per-engine", 2)),
    "killed-rank": (signal.SIGKILL, "RayTrainWorker", ("--workers-per-engine", 2)),
    "killed-proxy": (signal.SIGKILL, "Proxy", ("--workers-per-engine", 1)),
}
WORKER_TRIALS, WORKER_EPOCHS, WORKER_LIMIT_S = 4, 25, 400


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how often the driver is killed (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--worker", nargs="+", choices=WORKERS, help="these faults, in the place of kills")
    options = parser.parse_args()
    if options.worker:
        codes = []
        for name in options.worker:
            with tempfile.TemporaryDirectory(prefix="loss-search-faults-") as folder:
                codes.append(_worker(Path(folder), name))
        return max(codes)
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="loss-search-faults-") as folder:
        return _soak(Path(folder), options.kills, moments)


def _soak(folder: Path, kills: int, moments: random.Random) -> int:
    data = {"source": "synthetic", "size": 4096}
    space = write_space(folder, budget={"trials": TRIALS, "epochs": EPOCHS}, data=data)
    reported: set[tuple[int, int]] = set()
    arguments: tuple[object, ...] = ("run", space)
    done = 0
    while done < kills:
        at_start = moments.random() < AT_START
        after_s = moments.uniform(0.0, STARTING_S if at_start else TRAINING_S)
        code = _run(folder, arguments, after_s, after_a_row=not at_start)
        runs = list(folder.glob("runs/*"))
        if code == 0:
            print(f"the search ended by itself before kill {done + 1}")
            break
        if code != -signal.SIGKILL:
            print(f"the command failed by itself, exit code {code}")
            return 1
        done += 1
        if runs and (runs[0] / "events.jsonl").exists():
            reported |= _rows(runs[0])
        if runs and (runs[0] / "study.journal").exists():
            arguments = ("resume", runs[0])
        since = "the start" if at_start else "a new row"
        print(
            f"kill {done:2d}, {after_s:4.1f} s after {since}: {len(reported)} rows reported so far",
            flush=True,
        )
    if arguments[0] == "resume" and _run(folder, arguments, LIMIT_S) != 0:
        print("the last resume did not finish the search")
        return 1
    (run_dir,) = folder.glob("runs/*")
    return _judge(folder, run_dir, reported, done)


def _worker(folder: Path, name: str) -> int:
    """One search that loses a worker and has to finish; says how long no row came."""
    fault, title, options = WORKERS[name]
    data = {"source": "synthetic", "size": 4096}
    space = write_space(folder, budget={"trials": WORKER_TRIALS, "epochs": WORKER_EPOCHS}, data=data)
    process = start("run", space, *options, cwd=folder)
    try:
        run_dir = wait_for_rows(folder, 10)
        below = processes_below(process.pid)
        os.kill(max(pid for pid, found in below.items() if title in found), fault)
        reported, began = _rows(run_dir), time.monotonic()
        longest, last, seen = 0.0, began, _count(folder)
        while process.poll() is None and time.monotonic() - began < WORKER_LIMIT_S:
            time.sleep(0.25)
            if (count := _count(folder)) != seen:
                longest, last, seen = max(longest, time.monotonic() - last), time.monotonic(), count
        print(f"{name}: exit {process.poll()}, no row for up to {longest:.0f} s", flush=True)
        if process.poll() != 0:
            return 1
        retried = [event["trial"] for event in events_of(run_dir, "retried")]
        print(f"trials taken up again: {retried or 'none'}")
        return _judge(folder, run_dir, reported, 1, WORKER_TRIALS)
    finally:
        end_all()


def _run(folder: Path, arguments: tuple[object, ...], limit_s: float, after_a_row: bool = False) -> int:
    """Run a command and kill it `limit_s` after its start, or after its first new row; its exit code."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    before = _count(folder)
    while after_a_row and process.poll() is None and _count(folder) == before:
        time.sleep(0.1)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1.0)  # Ray's processes end with their driver
        return -signal.SIGKILL


def _count(folder: Path) -> int:
    """Rows reported so far by the only run below `folder`; 0 before it is made."""
    return sum(len(events_of(path.parent, "reported")) for path in folder.glob("runs/*/events.jsonl"))


def _rows(run_dir: Path) -> set[tuple[int, int]]:
    return {(event["row"]["trial"], event["row"]["epoch"]) for event in events_of(run_dir, "reported")}


def _judge(
    folder: Path, run_dir: Path, reported: set[tuple[int, int]], kills: int, wanted: int = TRIALS
) -> int:
    table = pq.read_table(run_dir / "epochs.parquet")
    keys = list(zip(table["trial"].to_pylist(), table["epoch"].to_pylist(), strict=True))
    trials = pq.read_table(run_dir / "trials.parquet").to_pylist()
    lost, twice = reported - set(keys), len(keys) - len(set(keys))
    ended = [event["trial"] for event in events_of(run_dir, "finished")]
    again = len(ended) - len(set(ended))
    open_trials = sum(row["state"] in ("RUNNING", "WAITING") for row in trials)
    checked = subprocess.run(
        command("check", run_dir), cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    print(f"{kills} fault(s), {len(reported)} rows reported before one: {len(lost)} lost, {twice} twice")
    print(f"{len(trials)} of {wanted} trials, {open_trials} left open, {again} ended twice")
    print(f"check: exit {checked.returncode} {checked.stdout.strip()}")
    whole = not lost and not twice and not again and not open_trials and len(trials) == wanted
    return 0 if whole and checked.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
