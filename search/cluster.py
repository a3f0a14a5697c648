"""Ray as a search needs it: how many engines fit, and a quiet Ray to run them on: a private one on this
machine, or a cluster that runs already (`search.nodes`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search import nodes
from search.errors import BadInput, RunFailed

__all__ = [
    "LOOPBACK",
    "EnginePlan",
    "RayOptions",
    "connect",
    "plan_engines",
    "quiet_loggers",
    "set_environment",
    "silence_s",
]

WORKER_CPUS = 0.9  # of a core, so that proxies fit beside a worker on every core
CPU_SLOTS = 1  # stacks of these models gain nothing on a CPU core (tests/bench/LOG.md)
LOOPBACK = "127.0.0.1"
LEAST_TEMPORARY_BYTES = 64 * 2**20
MOST_SLOTS = 8  # proxies wait for at most so many slots an engine while the number is being measured

# Ray reads these when it is imported or started: no telemetry, no colours or progress of its own, short
# timeouts.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_worker_maximum_startup_concurrency": "16",  # with one a core it warns about its own processes
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # asks the dashboard, which does not run, and costs a process
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # an engine may wait for a node
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}

# Ray prints what goes wrong in its own processes, as an engine ended by Ctrl-C, whatever `log_to_driver`
# says; it leaves out the lines that this expression finds: all.
MUTE = {"RAY_DEDUP_LOGS_SKIP_REGEX": "^"}

# How long an engine's worker may be silent before its engine is replaced; the environment may say otherwise.
SILENCE = {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60"}


@dataclass(frozen=True)
class EnginePlan:
    """How many engines of how many workers, and what each worker gets.

    On a cluster `grows` says that nodes which join later get engines, beyond the number planned at first.
    """

    engines: int
    workers_per_engine: int
    slots: int | str
    use_gpu: bool
    threads: int = 1
    cluster: bool = False
    grows: bool = False

    @property
    def most_slots(self) -> int:
        return self.slots if isinstance(self.slots, int) else MOST_SLOTS

    @property
    def backend(self) -> str:
        return "nccl" if self.use_gpu else "gloo"

    @property
    def worker_resources(self) -> dict[str, float]:
        return {"CPU": WORKER_CPUS, "GPU": 1} if self.use_gpu else {"CPU": WORKER_CPUS}

    def __str__(self) -> str:
        device = "GPU" if self.use_gpu else "CPU"
        return f"{self.engines} engine(s) x {self.workers_per_engine} {device} worker(s), slots {self.slots}"


@dataclass(frozen=True)
class RayOptions:
    """Where Ray runs: `address` None for a private one on this machine."""

    address: str | None
    plan: EnginePlan
    verbose: bool
    family: str = ""


def plan_engines(
    engines: int | None,
    workers_per_engine: int,
    slots: int | str | None,
    address: str | None,
    *,
    verbose: bool = False,
) -> EnginePlan:
    """The engines that this machine (or the cluster at `address`) has room for.

    On CPUs one engine a core, one thread each; on GPUs one engine per `workers_per_engine` GPUs. A cluster
    that can grow is planned for what it can grow to. Raises BadInput when what was asked for can never fit:
    Ray would wait for it for ever.
    """
    for name, value in (("--engines", engines), ("--workers-per-engine", workers_per_engine)):
        if value is not None and value < 1:
            raise BadInput(f"{name} {value}: must be at least 1")
    if isinstance(slots, int) and not 1 <= slots <= 4096:
        raise BadInput(f"--slots {slots}: must be 1 to 4096, or auto")
    room = _room(address, verbose)
    if room.most is not None:
        _refuse_what_never_fits(engines, workers_per_engine, room)
    units = room.now if room.most is None else room.most
    if slots is None:
        slots = "auto" if room.unit == "GPU" else CPU_SLOTS
    return EnginePlan(
        engines or max(1, units // workers_per_engine),
        workers_per_engine,
        slots,
        use_gpu=room.unit == "GPU",
        cluster=address is not None,
        grows=address is not None and engines is None,
    )


def _refuse_what_never_fits(engines: int | None, workers_per_engine: int, room: nodes.Room) -> None:
    units, unit = room.most, room.unit
    if workers_per_engine > units:
        raise BadInput(
            f"--workers-per-engine {workers_per_engine}: there are {units} {unit}s, one for each worker; "
            f"use at most {units}"
        )
    most = units // workers_per_engine
    if engines is not None and engines > most:
        raise BadInput(
            f"--engines {engines} with --workers-per-engine {workers_per_engine}: needs "
            f"{engines * workers_per_engine} {unit}s, there are {units}; use at most --engines {most}"
        )


def silence_s() -> float:
    """How long a process of the search may be silent before it counts as dead; within `connect`."""
    return float(os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"])


def _room(address: str | None, verbose: bool) -> nodes.Room:
    """Cores or GPUs that engines can use; on a cluster, after connecting to it."""
    if address is not None:
        with nodes.attached(address, verbose=verbose):
            room = nodes.room()
        if room.most == 0:
            raise BadInput(
                f"--address {address}: no node of this cluster has a core or GPU for engines, and none is "
                "added by itself; start Ray on a worker (`ray start --address=HEAD:6379`) first"
            )
        return room
    import torch

    gpus = torch.cuda.device_count()
    units = gpus or len(os.sched_getaffinity(0))
    return nodes.Room("GPU" if gpus else "core", units, units, 1)


def set_environment(verbose: bool) -> None:
    """Set the variables that Ray reads when it is imported or started."""
    os.environ.update({**SILENCE, **os.environ, **QUIET, **({} if verbose else MUTE)})


def quiet_loggers(verbose: bool) -> int:
    """Let Ray's loggers say nothing, or everything; returns their level."""
    level = logging.INFO if verbose else logging.CRITICAL
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(level)
    return level


@contextlib.contextmanager
def connect(options: RayOptions) -> Iterator[str]:
    """Ray for a search, let go of with the block: a private one on this machine, or the cluster asked for."""
    if options.address is None:
        with _private_ray(options) as address:
            yield address
        return
    with nodes.attached(options.address, verbose=options.verbose, family=options.family) as address:
        yield address


@contextlib.contextmanager
def _private_ray(options: RayOptions) -> Iterator[str]:
    """A private Ray on loopback with a token of its own, ended with the block, whatever ends it."""
    temporary = Path(tempfile.gettempdir())
    free = shutil.disk_usage(temporary).free
    if free < LEAST_TEMPORARY_BYTES:
        raise RunFailed(
            f"{temporary}: {free / 2**20:.0f} MiB free, and Ray needs {LEAST_TEMPORARY_BYTES / 2**20:.0f} "
            "for its logs and sockets; free some, or set TMPDIR to a directory with room and a short name"
        )
    set_environment(options.verbose)
    for variable in (
        "RAY_ADDRESS",
        "RAY_NAMESPACE",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
    ):  # of another Ray on this host
        os.environ.pop(variable, None)
    # On Linux Ray replaces 127.0.0.1 by the host's outward address and listens on every interface; with the
    # switch that it has for macOS and Windows it stays on loopback.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    level = quiet_loggers(options.verbose)
    plan = options.plan
    scratch = tempfile.mkdtemp(prefix="lsr-")  # short: Ray puts sockets below it, and their paths are limited
    try:
        # In the main thread: Ray's processes end with the thread that started them.
        context = ray.init(
            address="local",
            num_cpus=plan.engines * plan.workers_per_engine + 1,
            num_gpus=plan.engines * plan.workers_per_engine if plan.use_gpu else 0,
            include_dashboard=False,
            log_to_driver=options.verbose,
            logging_level=level,
            configure_logging=options.verbose,
            object_store_memory=200 * 1024 * 1024,
            namespace="loss-search",
            _temp_dir=scratch,
            _node_ip_address=LOOPBACK,
        )
    except (RuntimeError, ConnectionError, TimeoutError, OSError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise RunFailed(f"Ray did not start: {error}") from error
    try:
        yield context.address_info["address"]
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
