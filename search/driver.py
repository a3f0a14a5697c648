"""One search from start to end.

    search()   open the run ─► start Ray ─► engines warm up ─► Tune executes the study's trials ─► close
    engines    long-lived Ray Train worker groups, one thread each in this process; they outlive trials
    Tune       one proxy actor a trial, no torch; its results pass through `Run.receive`, which decides

What is here is the order of things and how they end. The record is `search.run`, the decisions are
`search.stopping` and `search.study`, the training is `trainables.engine`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from search.cluster import EnginePlan, RayOptions, connect, plan_engines
from search.errors import Incomplete
from search.progress import Snapshot
from search.run import Run
from search.run_directory import RunDirectory, version
from search.space import Space

__all__ = ["Options", "Outcome", "search"]

logger = logging.getLogger("loss_search.driver")

PROXY_RETRIES = 3
ENGINE_RETRIES = 20  # restarts of one worker group; a trial that breaks engines fails long before
CHECKPOINT_EVERY_S = 10.0
GROUP_TIMEOUT_S = 120  # a collective that takes longer ends the engine
DISPLAY_S = 0.5
SHUTDOWN_S = 60.0
KILLS, KILL_AGAIN_S = 20, 1.0  # of controllers, for one may be started while another is ended


@dataclass(frozen=True)
class Options:
    """How a search runs, as opposed to what it searches."""

    engines: int | None = None  # None: one a core, or one per `workers_per_engine` GPUs
    workers_per_engine: int = 1
    slots: int | str | None = None  # None: 1 on CPUs, measured on GPUs; "auto": measured
    address: str | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a search ended: complete, or interrupted and resumable."""

    directory: RunDirectory
    complete: bool
    last: Snapshot


def search(
    directory: RunDirectory, space: Space, options: Options, watch: Callable[[Snapshot], None]
) -> Outcome:
    """Run (or continue) the search of `space` in `directory` until its budget is spent or it is interrupted.

    `watch` gets a snapshot every half second. SIGINT or SIGTERM once ends it cleanly, twice at once. Raises
    RunFailed when it cannot go on, Incomplete when it cannot but can be resumed.
    """
    plan = plan_engines(options.engines, options.workers_per_engine, options.slots, options.address)
    with directory.locked(), _Interrupt() as interrupt:
        try:
            with Run(directory, space) as run:
                watch(run.snapshot())
                if run.work_left():
                    with connect(RayOptions(options.address, plan, options.verbose)) as ray_address:
                        interrupt.install()  # again: starting Ray puts a handler in place that aborts
                        logger.info("Ray runs at %s; %s", ray_address, plan)
                        _execute(run, plan, interrupt.event, watch)
                run.phase = "finishing"
                complete = not run.work_left()
                run.close()
                last = run.snapshot()
        except OSError as error:
            raise Incomplete(_storage_message(directory, error)) from error
        watch(last)
    return Outcome(directory, complete, last)


def _execute(
    run: Run, plan: EnginePlan, interrupted: threading.Event, watch: Callable[[Snapshot], None]
) -> None:
    """Start broker and engines, let Tune run the study's trials, and end the engines."""
    import ray

    from search.broker import Broker

    address = {"name": f"broker-{secrets.token_hex(4)}", "namespace": "loss-search"}
    broker = ray.remote(Broker).options(name=address["name"], max_concurrency=1000, num_cpus=0).remote()
    engines = _Engines(run, plan, address, broker)
    engines.start()
    clock, closing = _Clock(), []

    def between() -> None:
        if interrupted.is_set() or engines.all_failed:
            run.interrupted = True
        if run.interrupted and not closing:
            # Now, not in `engines.end`: proxies and engines wait for each other's rows otherwise.
            closing.append(broker.close.remote())
        try:
            run.tick()
            if clock.due():
                _look_at(run, broker)
                watch(run.snapshot())
        except OSError as error:
            run.give_up(error)

    try:
        _tune(run, plan, address, broker, between)
    except BaseException:
        engines.end(lambda: None)  # what `between` does may be what failed
        raise
    engines.end(between)
    if run.fault is not None:
        raise run.fault
    if engines.all_failed and run.work_left():
        raise Incomplete(
            f"every engine failed, the first with: {engines.first_error}; see {run.directory.log}, then "
            f"continue with: loss-search resume {run.directory.path}"
        )


def _look_at(run: Run, broker: Any) -> None:
    """How full the slots are, and whether an engine or the broker itself is in trouble."""
    import ray

    try:
        run.occupancy = ray.get(broker.occupancy.remote(), timeout=5.0)
    except ray.exceptions.GetTimeoutError:
        return  # a busy machine: the next look will tell
    except ray.exceptions.RayActorError:
        run.give_up(
            Incomplete(
                "the broker between trials and engines died; nothing that was reported is lost, continue "
                f"with: loss-search resume {run.directory.path}"
            )
        )
        return
    if run.occupancy["fault"] is not None:
        run.give_up(
            Incomplete(
                f"{run.occupancy['fault']}; then continue with: loss-search resume {run.directory.path}"
            )
        )
    if run.phase == "starting" and run.occupancy["engines"]:
        run.phase = "searching"


def _tune(run: Run, plan: EnginePlan, address: dict, broker: Any, between: Callable[[], None]) -> None:
    """Let Ray Tune execute trials until the study has no more, or the run is interrupted."""
    from ray import tune

    from search.proxy import Proxy
    from search.tune_adapters import Housekeeping, StudySearcher, StudyStopper

    searcher = StudySearcher(run, broker, address)
    # One trial more than there are slots waits in the queue, so that a slot is refilled at once.
    concurrent = min(plan.engines * plan.most_slots + 1, max(run.num_trials(), 1))
    with tempfile.TemporaryDirectory(prefix="loss-search-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(Proxy, {"CPU": 0.001}),
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=-1, max_concurrent_trials=concurrent, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                stop=StudyStopper(run, broker),
                callbacks=[Housekeeping(run, broker, searcher, between)],
                failure_config=tune.FailureConfig(max_failures=PROXY_RETRIES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )
        tuner.fit()


class _Engines:
    """The engines of one search: a thread each that holds a `TorchTrainer.fit`."""

    def __init__(self, run: Run, plan: EnginePlan, address: dict[str, str], broker: Any) -> None:
        self.run, self.plan, self.address, self.broker = run, plan, address, broker
        self.ending = False
        self.errors: dict[str, BaseException] = {}
        self.threads: dict[str, threading.Thread] = {}

    @property
    def all_failed(self) -> bool:
        return len(self.errors) == self.plan.engines

    @property
    def first_error(self) -> str:
        lines = [line for line in str(next(iter(self.errors.values()))).splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no message"

    def start(self) -> None:
        importlib.import_module("search.loopback")  # Ray's modules cannot be imported by two threads at once
        importlib.import_module("trainables.ray_worker")
        for index in range(self.plan.engines):
            name = f"engine-{index}"
            self.threads[name] = threading.Thread(
                target=self._serve, args=(name, index == 0), name=name, daemon=True
            )
            self.threads[name].start()

    def end(self, between: Callable[[], None]) -> None:
        """Close the broker and wait until the engines have saved what they hold.

        Engines that are still starting hold nothing, so a search that is interrupted does not wait for them.
        """
        import ray

        self.ending = True
        try:
            ray.get(self.broker.close.remote())
        except ray.exceptions.RayActorError:
            logger.error("the broker is gone; the engines end when they notice it")
        idle = self.run.interrupted and not self.run.occupancy["engines"]
        if not idle and not self._ended_within(SHUTDOWN_S, between):
            logger.error("engines did not end within %.0f s", SHUTDOWN_S)
        # A thread still in `fit` when Ray shuts down would end this process: its controller goes first.
        for _ in range(KILLS):
            if self._ended_within(KILL_AGAIN_S, between):
                return
            for pid in _controllers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        logger.error("threads of engines outlive their controllers")

    def _ended_within(self, seconds: float, between: Callable[[], None]) -> bool:
        deadline = time.monotonic() + seconds
        while any(thread.is_alive() for thread in self.threads.values()):
            if time.monotonic() > deadline:
                return False
            between()
            time.sleep(0.05)
        return True

    def _serve(self, name: str, first: bool) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from search.loopback import LoopbackTorchConfig
        from trainables.ray_worker import serve

        with tempfile.TemporaryDirectory(prefix="loss-search-train-", ignore_cleanup_errors=True) as scratch:
            trainer = TorchTrainer(
                serve,
                train_loop_config=self._config(name, first),
                torch_config=LoopbackTorchConfig(backend=self.plan.backend, timeout_s=GROUP_TIMEOUT_S),
                scaling_config=ScalingConfig(
                    num_workers=self.plan.workers_per_engine,
                    use_gpu=self.plan.use_gpu,
                    resources_per_worker=self.plan.worker_resources,
                ),
                run_config=RunConfig(
                    name=name, storage_path=scratch, failure_config=FailureConfig(max_failures=ENGINE_RETRIES)
                ),
            )
            try:
                trainer.fit()
            except Exception as error:
                # The boundary to Ray Train: whatever ended this engine for good, the others take its trials.
                if self.ending:
                    return
                logger.error("%s ended: %s", name, error)
                self.errors[name] = error
                self.broker.detach.remote(name)

    def _config(self, name: str, first: bool) -> dict[str, Any]:
        space = self.run.space
        return {
            "engine": name,
            "broker": self.address,
            "family": space.family_name,
            "data": dict(space.data),
            "static": {name: space.complete({})[name] for name in space.static},
            "slots": self.plan.slots,
            "measures": first,
            "threads": self.plan.threads,
            "objective": space.objectives[0],
            "maximise": space.directions[0] == "maximize",
            "checkpoint_every_s": CHECKPOINT_EVERY_S,
            "version": version(),
        }


def _controllers() -> list[int]:
    """Process ids of Ray Train's controllers, which run beside the driver, one an engine."""
    from ray._private import state

    actors = state.actors().values()
    alive = [one for one in actors if one["ActorClassName"] == "TrainController" and one["State"] == "ALIVE"]
    return [one["Pid"] for one in alive if one["Pid"]]


class _Clock:
    """True at most every `DISPLAY_S`."""

    def __init__(self) -> None:
        self.last = 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < DISPLAY_S:
            return False
        self.last = now
        return True


class _Interrupt:
    """Sets `event` on SIGINT or SIGTERM; the second signal ends the process at once, which loses nothing."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.before: dict[int, Any] = {}

    def install(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.signal(number, self._handle)
                self.before.setdefault(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if self.event.is_set():
            os._exit(Incomplete.exit_code)
        self.event.set()

    def __enter__(self) -> _Interrupt:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _storage_message(directory: RunDirectory, error: OSError) -> str:
    free = "; the disk is full, free some space" if error.errno == errno.ENOSPC else ""
    return (
        f"cannot write the run directory {directory.path}: {error.strerror or error}{free}; nothing that was "
        f"reported is lost, continue with: loss-search resume {directory.path}"
    )
