"""The nodes of a Ray cluster that runs already: attaching to it, and the room that it has for engines.

The driver sits on the head (`ray up`, `loss-search submit`) or on any other node. Nodes come and go while it
runs; what is said here is always what Ray knows now.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml

from search.errors import BadInput

__all__ = [
    "Changes",
    "Room",
    "Watch",
    "attached",
    "beside_the_driver",
    "module_of",
    "possible",
    "room",
    "token_file",
]

logger = logging.getLogger("loss_search.cluster")

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves the launcher's file on the head
HEAD = "node:__internal_head__"  # Ray's resource of the head node alone
START = "start one (`ray up cluster.yaml`), or leave --address away to search on this machine"
ANSWER_S = 5.0
MOST_SHOWN = 300  # letters of what Ray says
PROXY_SHARE = 0.0001  # of the driver's node: room for 10,000 proxies


@dataclass(frozen=True)
class Room:
    """What engines can be placed on. One worker takes one `unit`.

    Args:
        unit: "GPU" where there are any, else "core".
        now: units of the nodes that are there.
        most: units after the autoscaler has added what it may; None when it may add nodes of unknown size.
        nodes: how many nodes have such units now.
    """

    unit: str
    now: int
    most: int | None
    nodes: int


@contextlib.contextmanager
def attached(address: str, *, verbose: bool = False, family: str = "") -> Iterator[str]:
    """Connect this process to the cluster at `address` (`auto` or HOST:PORT) until the block ends.

    Workers get the module of a user's own `family` (`module:ATTRIBUTE`). Raises BadInput when there is no
    cluster there, or when it does not take this user's token.
    """
    _refuse_other_kinds(address)
    from search.cluster import QUIET, SILENCE, quiet_loggers, set_environment

    set_environment(verbose)
    for_workers = {name: os.environ[name] for name in (*SILENCE, *QUIET)}
    if os.environ.get("RAY_AUTH_TOKEN") or token_file().is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray
    import ray.exceptions

    _require_answer(address)  # so what fails after this is no missing cluster
    level, module = quiet_loggers(verbose), module_of(family)
    with _held_stderr() as said:
        try:
            context = ray.init(
                address=address,
                namespace="loss-search",
                log_to_driver=verbose,
                logging_level=level,
                configure_logging=verbose,
                runtime_env={"env_vars": for_workers, **({"py_modules": [str(module)]} if module else {})},
            )
        except (ray.exceptions.RayError, OSError, TimeoutError, ValueError, RuntimeError) as error:
            if not verbose:
                # A line a second about the token, in Ray's words; ours says it once.
                said.seek(0)
                said.truncate()
            raise BadInput(_refusal(address, error)) from error
    try:
        yield context.address_info["address"]
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _held_stderr() -> Iterator[IO[bytes]]:
    """Hold back what this process writes to its error output, Ray's native code too, until the block ends.

    What the file that is yielded still holds then is written.
    """
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield held
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))


def _require_answer(address: str) -> None:
    """Raises BadInput at once where nothing listens: Ray itself would try for minutes."""
    if address == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        found = canonicalize_bootstrap_address(address)
        if not found:
            raise BadInput(f"--address auto: no Ray runs here, and RAY_ADDRESS is not set; {START}")
    else:
        found = address
    host, _, port = found.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(f"--address {address}: nothing answers at {found} ({reason}); {START}") from error


def _refusal(address: str, error: Exception) -> str:
    """What Ray's error on connecting means: it has one kind for each layer that may notice first."""
    from ray.exceptions import AuthenticationError

    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, AuthenticationError) or "Failed to connect to Ray cluster" in reason:
        return (
            f"--address {address}: the cluster refuses this user's token, or what answers there is no head "
            f"of Ray; RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or {token_file()} must hold the token that it was "
            "launched with"
        )
    return f"--address {address}: no cluster can be used there ({reason[:MOST_SHOWN]}); {START}"


def _refuse_other_kinds(address: str) -> None:
    if address.startswith("ray://"):
        raise BadInput(
            f"--address {address}: a search cannot run through Ray Client, for engines and driver talk to "
            "each other inside the cluster; use `loss-search submit SPACE --address http://127.0.0.1:8265`, "
            "or run it on the head with --address auto"
        )
    if address.startswith(("http://", "https://")):
        raise BadInput(
            f"--address {address}: is a dashboard; `loss-search submit SPACE --address {address}` searches "
            "there. Here: auto, or HOST:PORT of the head"
        )
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise BadInput(f"--address {address}: must be auto, or HOST:PORT of the head as in 10.0.0.4:6379")


def token_file() -> Path:
    """Where Ray reads this user's token, when RAY_AUTH_TOKEN is not set."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()


def module_of(family: str) -> Path | None:
    """The file, or the directory of the package, of a user's own family; None for one that is installed."""
    name = family.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(name) if ":" in family else None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    if {"site-packages", "dist-packages"} & set(origin.parts) or origin.is_relative_to(standard):
        return None
    return origin.parent if spec.submodule_search_locations else origin


def room() -> Room:
    """The room that the cluster has for engines now, and may have later."""
    import ray

    units: Mapping[str, list[int]] = {"GPU": [], "core": []}
    leaving = _draining()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in leaving:
            _count(node["Resources"], units)
    config = _launcher_config()
    later = {} if config is None else possible(config)
    unit = "GPU" if sum(units["GPU"]) or (later or {}).get("GPU") else "core"
    now = sum(units[unit])
    most = None if later is None else max(now, later.get(unit, 0))
    return Room(unit, now, most, sum(one > 0 for one in units[unit]))


def _count(resources: Mapping[str, float], units: Mapping[str, list[int]]) -> None:
    from search.cluster import WORKER_CPUS

    cores = resources.get("CPU", 0.0)
    units["core"].append(int(cores))
    units["GPU"].append(min(int(resources.get("GPU", 0.0)), int(cores / WORKER_CPUS)))


def _launcher_config() -> Mapping[str, Any] | None:
    """The launcher's file, when this is the head of a cluster that `ray up` launched."""
    import ray

    here = next(node for node in ray.nodes() if node["NodeID"] == ray.get_runtime_context().get_node_id())
    path = BOOTSTRAP.expanduser()
    if HEAD not in here["Resources"] or not path.is_file():
        return None
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def possible(config: Mapping[str, Any]) -> dict[str, int] | None:
    """Units by kind of a cluster that has grown as far as its launcher's file allows.

    None when that file allows workers whose size it does not say (hosts of one's own).
    """
    workers: dict[str, list[int]] = {"GPU": [], "core": []}
    for kind in config["available_node_types"].values():
        for _ in range(kind.get("max_workers", 0)):
            if not kind.get("resources"):
                return None
            _count(kind["resources"], workers)
    allowed = config.get("max_workers", 0)
    return {unit: sum(sorted(found, reverse=True)[:allowed]) for unit, found in workers.items()}


def _draining() -> set[str]:
    from ray._private.state import state

    return set(state.get_draining_nodes())


class Changes(NamedTuple):
    """What happened to the nodes since the last look: ids, and the news for people."""

    gone: set[str]
    leaving: set[str]
    news: list[str]


class Watch:
    """Looks at the cluster again and again. `room` is what it had at the last look."""

    def __init__(self) -> None:
        self.alive: dict[str, str] = {}
        self.leaving: set[str] = set()
        self.look()

    def look(self) -> Changes:
        import ray

        before = self.alive
        self.alive = {n["NodeID"]: n["NodeManagerAddress"] for n in ray.nodes() if n["Alive"]}
        leaving, self.leaving = self.leaving, _draining() & set(self.alive)
        self.room = room()
        gone = set(before) - set(self.alive)
        joined = set(self.alive) - set(before) if before else set()
        news = [f"node {before[one]} is gone; others continue what it trained" for one in sorted(gone)]
        news += [f"node {self.alive[one]} will go soon; its trials move" for one in self.leaving - leaving]
        news += [f"node {self.alive[one]} has joined" for one in sorted(joined)]
        return Changes(gone, self.leaving, news)


def beside_the_driver() -> dict[str, Any]:
    """A placement group for a proxy: on the driver's own node, whose death ends the search anyway."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    (name,) = (name for name in resources if name.startswith("node:") and name != HEAD)
    return {"bundles": [{name: PROXY_SHARE}], "bundle_label_selector": [{"ray.io/node-id": here}]}
