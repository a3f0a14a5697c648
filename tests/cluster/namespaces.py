"""The README's cluster section for real: `ray up` on three hosts, searches, power cuts, `ray down`.

    python tests/cluster/namespaces.py [--keep DIR]

The hosts are network namespaces of this machine (tests/cluster/hosts.py). Prints a line a step with the
seconds since the start; a step that fails prints what its command said. --keep leaves logs and listening
sockets in DIR. Exit code 0 when every step holds, 1 when one does not, 77 with the reason where such hosts
cannot be made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "tests"))

from cluster.hosts import SHARED, Host, missing, network  # noqa: E402  needs the path above
from searches import events_of, write_space  # noqa: E402

SKIPPED = 77
TRIALS, EPOCHS = 6, 40
ROWS_BEFORE_THE_CUT = 12
GRID_TRIALS, GRID_CONFIRMED = 4, 2
GRIDS = f"""
family: beta_vae
name: grids
data: {{source: file, path: grids.npz}}
budget: {{trials: {GRID_TRIALS}, epochs: 12}}
knobs:
  kl.weight: {{float: [0.001, 0.1], log: true}}
search: {{sampler: random, seed: 1}}
stop: {{prune: off, plateau: off, collapse: off}}
"""
BEGAN = time.monotonic()


class Failed(Exception):
    """A step that does not hold, with what its command said."""


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:5.0f} s  {text}", flush=True)


class Client:
    """Who launches the cluster: a home of its own, and the commands as the README has them."""

    def __init__(self, scratch: Path) -> None:
        self.home = scratch / "client"
        (self.home / "tmp").mkdir(parents=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "RAY_TMPDIR": str(self.home / "tmp"),
            "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT / "tests"),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.started: list[subprocess.Popen] = []

    def run(self, *command: object, expect: int = 0, limit_s: float = 240, **changes: str) -> str:
        """Run a command to its end; its output. Raises Failed when its exit code is another."""
        process = self.start(*command, **changes)
        try:
            output, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            output = f"{self.end(process)}\nno end within {limit_s:.0f} s"
        if process.returncode != expect:
            words = " ".join(map(str, command))
            raise Failed(f"{words}: exit code {process.returncode}, expected {expect}\n{output}")
        return output

    def start(self, *command: object, **changes: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.home,
            env={**self.environment, **changes},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen) -> str:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]

    def end_all(self) -> None:
        for process in self.started:
            self.end(process)


@contextlib.contextmanager
def three_hosts(scratch: Path, key: Path) -> Iterator[list[Host]]:
    shared = scratch / "shared"
    shared.mkdir()
    bridge = f"ls{secrets.token_hex(2)}"
    with network(bridge):
        cores = {10: 0, 11: 1, 12: 1}  # the head has none for engines
        hosts = [Host(number, bridge, scratch, shared, key, count) for number, count in cores.items()]
        try:
            for host in hosts:
                host.start()
            yield hosts
        finally:
            for host in hosts:
                host.remove()


def until(found: Callable[[], object], what: str, limit_s: float = 90.0) -> object:
    """The first true result of `found`, asked again and again. Raises Failed when there is none in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.2)
    raise Failed(f"not within {limit_s:.0f} s: {what}")


def launch(client: Client, hosts: list[Host], key: Path) -> Path:
    """`ray up` by the on-premise form of cluster.yaml."""
    file = client.home / "mine.yaml"
    client.run("loss-search", "cluster", "token")
    addresses = [host.address for host in hosts]
    options = ("--ssh-user", "root", "--ssh-key", key, "--runs", SHARED)
    rendered = client.run(
        "loss-search", "cluster", "on-premise", *addresses, *options, "--template", PROJECT / "cluster.yaml"
    )
    file.write_text(rendered)
    client.run("ray", "up", "-y", "--no-config-cache", file)
    return file


def open_tunnel(client: Client, file: Path) -> str:
    """The dashboard at a free local port; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client.start("ray", "dashboard", "-p", port, file)

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    until(answers, "the tunnel to the dashboard")
    return f"http://127.0.0.1:{port}"


def refuse_strangers(client: Client, dashboard: str) -> None:
    """Without the token, and with a wrong one, nothing is told and nothing runs."""
    said = client.run("loss-search", "status", "--address", dashboard, expect=2, RAY_AUTH_TOKEN="wrong" * 8)
    if "the cluster refuses this token" not in said:
        raise Failed(f"a wrong token: {said}")
    nowhere = str(client.home / "missing")
    said = client.run("loss-search", "submit", "beta_vae", expect=2, RAY_AUTH_TOKEN_PATH=nowhere)
    if "no token:" not in said:
        raise Failed(f"no token: {said}")


def rows_of(run: Path) -> set[tuple[int, int]]:
    return {(event["row"]["trial"], event["row"]["epoch"]) for event in events_of(run, "reported")}


def search_through_a_power_cut(client: Client, dashboard: str, hosts: list[Host], shared: Path) -> Path:
    """Submit a search, cut the power of a worker in the middle; the run, which has lost nothing."""
    data = {"source": "synthetic", "size": 2048}
    space = write_space(client.home, budget={"trials": TRIALS, "epochs": EPOCHS}, data=data)
    options = ("--engines", 2, "--address", dashboard)
    submitted = client.start("loss-search", "submit", space, *options)

    def at_work() -> Path | None:
        for run in shared.glob("tiny-*"):
            events = events_of(run, "reported") if (run / "events.jsonl").exists() else []
            engines = {event["row"]["engine"] for event in events}
            if len(events) >= ROWS_BEFORE_THE_CUT and len(engines) == 2:
                return run
        if submitted.poll() is not None:
            raise Failed(f"submit ended: {submitted.communicate()[0]}")
        return None

    run = until(at_work, "rows of two engines", limit_s=120)
    before = rows_of(run)
    say(f"two engines on two hosts have reported {len(before)} epochs; the power of one host is cut")
    hosts[2].kill()
    until(lambda: len(rows_of(run)) > len(before) + ROWS_BEFORE_THE_CUT, "rows after the power cut")
    hosts[2].boot()
    say("the search goes on with the other; the host boots again")
    try:
        output, _ = submitted.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        raise Failed(f"the search did not end: {client.end(submitted)}") from None
    if submitted.returncode != 0 or "is gone; others continue what it trained" not in output:
        raise Failed(f"submit: exit code {submitted.returncode}\n{output}")
    lost = before - rows_of(run)
    states = [row["state"] for row in pq.read_table(run / "trials.parquet").to_pylist()]
    if lost or states != ["COMPLETE"] * TRIALS:
        raise Failed(f"rows lost: {sorted(lost)}; states: {states}")
    return run


def bring_home(client: Client, file: Path, name: str) -> Path:
    client.run("loss-search", "fetch", name, "--cluster", file)
    client.run("loss-search", "check", f"runs/{name}")
    home = client.home / "runs" / name
    for part in ("trials.parquet", "epochs.parquet", "report/recommended.yaml"):
        if not (home / part).is_file():
            raise Failed(f"fetch brought no {part}")
    if len(list(home.glob("trials/*/model.pt"))) != TRIALS:
        raise Failed("fetch did not bring every model")
    return home


def compare_two_hosts_with_one(client: Client, dashboard: str, shared: Path) -> None:
    """One engine of two workers on two hosts, and one of one worker: the same results."""
    space = write_space(
        client.home, name="ddp", budget={"trials": 2, "epochs": 3}, search={"sampler": "random", "seed": 1}
    )
    found = []
    for workers in (1, 2):
        options = ("--engines", 1, "--workers-per-engine", workers, "--address", dashboard)
        client.run("loss-search", "submit", space, *options)
        (run,) = {one for one in shared.glob("ddp-*")} - {one for _, one in found}
        found.append((pq.read_table(run / "epochs.parquet").to_pylist(), run))
    for one, two in zip(found[0][0], found[1][0], strict=True):
        for name in ("train.loss", "val.error", "grad_norm"):
            if abs(one[name] - two[name]) > 1e-4 * max(1, abs(one[name])):
                raise Failed(f"{name} of trial {one['trial']}: {one[name]} by one worker, {two[name]} by two")


def resume_after_a_head_restart(client: Client, file: Path, dashboard: str, hosts: list[Host]) -> None:
    """A search on a file of the client's own, a power cut of the head, `ray up` again, the search resumed."""
    shared = client.home.parent / "shared"
    grids = np.random.default_rng(0).integers(0, 4, (2000, 8, 8), np.uint8)
    np.savez_compressed(client.home / "grids.npz", grids=grids, group=np.arange(2000) // 20)
    space = client.home / "grids.yaml"
    space.write_text(GRIDS)
    submitted = client.start("loss-search", "submit", space, "--address", dashboard)

    def under_way() -> Path | None:
        if submitted.poll() is not None:
            raise Failed(f"submit ended: {submitted.communicate()[0]}")
        found = [run for run in shared.glob("grids-*") if (run / "events.jsonl").exists()]
        return found[0] if found and len(rows_of(found[0])) >= ROWS_BEFORE_THE_CUT else None

    run = until(under_way, "rows of the search on a file", limit_s=120)
    hosts[0].kill()
    before = rows_of(run)
    said, _ = submitted.communicate(timeout=120)
    if submitted.returncode != 3 or "nothing that was reported is lost" not in said:
        raise Failed(f"submit, when the head had died: exit code {submitted.returncode}\n{said}")
    say(f"the head's power is cut after {len(before)} epochs; who followed is told how to go on")
    hosts[0].boot()
    client.run("ray", "up", "-y", "--no-config-cache", file)
    dashboard = open_tunnel(client, file)
    client.run("loss-search", "submit", space, "--resume", run.name, "--address", dashboard)
    fewer = ("--set", "confirm.top=1", "--set", "confirm.seeds=2")
    said = client.run("loss-search", "submit", space, "--confirm", run.name, *fewer, "--address", dashboard)
    if "confirmed with fresh seeds" not in said:
        raise Failed(f"submit --confirm: {said}")
    lost = before - rows_of(run)
    states = [row["state"] for row in pq.read_table(run / "trials.parquet").to_pylist()]
    if lost or states != ["COMPLETE"] * (GRID_TRIALS + GRID_CONFIRMED):
        raise Failed(f"resumed: rows lost: {sorted(lost)}; states: {states}")
    client.run("loss-search", "fetch", run.name, "--cluster", file)
    client.run("loss-search", "check", f"runs/{run.name}")


def sockets_of(hosts: list[Host]) -> str:
    return "".join(f"== {host.name} {host.address}\n{host.run('ss', '-ltnp')}\n" for host in hosts)


def scene(scratch: Path, keep: Path | None) -> None:
    key = scratch / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    client = Client(scratch)
    with three_hosts(scratch, key) as hosts, contextlib.ExitStack() as stack:
        stack.callback(client.end_all)
        say(f"three hosts: head {hosts[0].address}, workers {hosts[1].address} and {hosts[2].address}")
        file = launch(client, hosts, key)
        say("ray up has launched the head")
        dashboard = open_tunnel(client, file)
        refuse_strangers(client, dashboard)
        say("without the token, and with a wrong one, the cluster refuses")
        run = search_through_a_power_cut(client, dashboard, hosts, scratch / "shared")
        say(f"the search has finished: {TRIALS} trials, {TRIALS * EPOCHS} epochs, none lost")
        bring_home(client, file, run.name)
        say("the run is at home, and whole")
        compare_two_hosts_with_one(client, dashboard, scratch / "shared")
        say("one engine of two workers on two hosts gives what one worker gives")
        resume_after_a_head_restart(client, file, dashboard, hosts)
        say("the head is launched again, the search resumed to its end, none lost, confirmed, and fetched")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / "sockets.txt").write_text(sockets_of(hosts))
        client.run("ray", "down", "-y", file)
        say("ray down")


def left_behind(name: str) -> list[str]:
    """Namespaces, links, mounts and processes that should be gone."""
    links = subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    mounts = Path("/proc/mounts").read_text()
    found = [line for line in (*links.splitlines(), *spaces.splitlines()) if line.startswith(("ls", "vls"))]
    found += [line for line in mounts.splitlines() if name in line]
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (entry / "cmdline").read_text().replace("\0", " ")
            if name in title and entry.name != str(os.getpid()):
                found.append(f"{entry.name} {title}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="a directory for logs and the list of listening sockets")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing is left behind then either
    if (reason := missing()) is not None:
        print(f"skipped: {reason}")
        return SKIPPED
    scratch = Path(tempfile.mkdtemp(prefix="loss-search-hosts-", dir="/var/tmp"))  # /tmp is each host's own
    code = 0
    try:
        scene(scratch, options.keep)
    except Failed as error:
        say(f"FAILED: {error}")
        code = 1
    finally:
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            for console in scratch.glob("*/console.log"):
                shutil.copy(console, options.keep / f"{console.parent.name}.log")
        shutil.rmtree(scratch, ignore_errors=True)
    left = left_behind(scratch.name)
    say("nothing is left behind" if not left else f"left behind: {left}")
    return code or int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
