"""Real searches for the tests: the command as a user types it, in a directory of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from search.events import read_events

HERE = Path(__file__).parent
LIMIT_S = 180
STARTED: list[subprocess.Popen] = []
SCRATCH = tempfile.mkdtemp(prefix="lst-")  # a search that is killed leaves its temporary files there
atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)


def write_space(directory: Path, **changes: object) -> Path:
    """A small space of the tiny family; `changes` replace its sections."""
    space = {
        "family": "tiny_family:TINY",
        "name": "tiny",
        "data": {"source": "synthetic", "size": 1024},
        "budget": {"trials": 6, "epochs": 6},
        "knobs": {
            "penalty.weight": {"float": [0.01, 1.0], "log": True},
            "penalty.schedule": {"choice": ["constant", "linear"]},
            "optim.lr": {"float": [1e-3, 1e-1], "log": True},
        },
        "search": {"sampler": "tpe", "seed": 1},
        "stop": {"plateau": "off", "collapse": "off"},
        **changes,
    }
    path = directory / "tiny.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False))
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "search.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    paths = [str(HERE), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", "TMPDIR": SCRATCH}
    return {**os.environ, **settings}


def start(*arguments: object, cwd: Path) -> subprocess.Popen:
    """A command in a process group of its own, so that all of it can be ended; `end_all` does so."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def end_all() -> None:
    """End what the tests have started and a failed test has left running."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def run(*arguments: object, cwd: Path, expect: int = 0) -> str:
    """Run a command to its end; its output. Fails with the output when the exit code is another."""
    process = start(*arguments, cwd=cwd)
    try:
        output, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"{arguments} did not end within {LIMIT_S} s:\n{output}") from None
    assert process.returncode == expect, f"exit code {process.returncode}, expected {expect}:\n{output}"
    return output


def only_run(cwd: Path) -> Path:
    (path,) = (cwd / "runs").iterdir()
    return path


def events_of(run_dir: Path, kind: str) -> list[Mapping]:
    return [event for event in read_events(run_dir / "events.jsonl")[0] if event["kind"] == kind]


def wait_for_rows(cwd: Path, rows: int) -> Path:
    """Wait until the run below `cwd` has reported so many rows."""
    for _ in ticks():
        found = list(cwd.glob("runs/*/events.jsonl"))
        if found and len(events_of(found[0].parent, "reported")) >= rows:
            return found[0].parent
    raise AssertionError("no rows in time")


def ticks(limit_s: float = 90.0) -> Iterator[None]:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        yield
        time.sleep(0.05)


def processes_below(pid: int) -> dict[int, str]:
    """Every living process descended from `pid`, with its title."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                title = (entry / "cmdline").read_text().replace("\0", " ").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = (int(fields[1]), title)
    found: dict[int, str] = {}
    grew = True
    while grew:
        grew = False
        for child, (parent, title) in parents.items():
            if child not in found and (parent == pid or parent in found):
                found[child] = title
                grew = True
    return found


def alive(pids: list[int]) -> list[int]:
    left = []
    for pid in pids:
        try:
            state = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            left.append(pid)
    return left


def listening_beyond_loopback(pids: list[int]) -> list[str]:
    """TCP sockets of these processes that listen on an address other than loopback."""
    sockets = set()
    for pid in pids:
        try:
            for link in (Path("/proc") / str(pid) / "fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    sockets.add(target[8:-1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    loopback = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address = fields[1].split(":")[0]
            listens = fields[3] == "0A"
            if listens and fields[9] in sockets and address not in loopback:
                found.append(fields[1])
    return found
