"""A run as it is worked on, from start to end.

    Driver     hold the run ─► work() on a phase ─► work() on the next ─► engines end, Ray ends
    work()     open the phase ─► Ray and engines, unless they are warm ─► Tune executes its trials ─► close
    engines    long-lived Ray Train worker groups (`search.engines`); they outlive trials and phases
    Tune       one proxy actor a trial, no torch; its results pass through `Run.receive`, which decides

What is here is the order of things and how they end. The record is `search.run`, the decisions are
`search.stopping` and `search.study`, the training is `trainables.engine`.
"""

from __future__ import annotations

import contextlib
import errno
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

from search import nodes
from search.cluster import RayOptions, connect, plan_engines, silence_s
from search.engines import Engines
from search.errors import Incomplete
from search.progress import Snapshot
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space

__all__ = ["Driver", "Options", "Outcome", "search"]

logger = logging.getLogger("loss_search.driver")

PROXY_RETRIES = 3
GROWN = 1000  # trials at a time, whatever a cluster grows to
DISPLAY_S = 0.5
LOOK_S = 5.0  # the longest wait for the broker's answer about its slots
POLL_S = 0.05


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
    """How a phase ended: complete, or interrupted and resumable."""

    directory: RunDirectory
    complete: bool
    worked: bool  # whether there was anything to do
    last: Snapshot


def search(
    directory: RunDirectory, space: Space, options: Options, watch: Callable[[Snapshot], None]
) -> Outcome:
    """Run (or continue) the search of `space` in `directory` until its budget is spent or it is interrupted.

    `watch` gets a snapshot every half second. SIGINT or SIGTERM once ends it cleanly, twice at once. Raises
    RunFailed when it cannot go on, Incomplete when it cannot but can be resumed.
    """
    with Driver(directory, options) as driver:
        return driver.work(lambda: Run(directory, space), watch)


class Driver:
    """A run that is worked on: its lock, Ctrl-C, and from the first trial on Ray and the engines.

    Entering it holds the run (BadInput when another process does). Leaving it ends what was started.
    """

    def __init__(self, directory: RunDirectory, options: Options) -> None:
        self.directory, self.options = directory, options
        self.plan = plan_engines(
            options.engines,
            options.workers_per_engine,
            options.slots,
            options.address,
            verbose=options.verbose,
        )
        self.engines: Engines | None = None
        self.broker: Any = None

    def __enter__(self) -> Driver:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self.directory.locked())
        self._interrupt = self._stack.enter_context(_Interrupt())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def work(self, opened: Callable[[], Run], watch: Callable[[Snapshot], None]) -> Outcome:
        """Open one phase of the run and bring it to its end, or to where it is interrupted.

        Engines stay warm for the next phase. Raises as `search` does.
        """
        command = f"loss-search resume {self.directory.shown}"
        try:
            with opened() as run:
                command = run.continued_by
                if self.engines is not None:
                    run.stage, run.engines_wanted = "searching", self.engines.wanted
                watch(run.snapshot())
                worked = run.work_left()
                if worked and not self._is_over and self._started(run):
                    self._execute(run, watch)
                run.stage = "finishing"
                complete = not run.work_left()
                run.close()
                last = run.snapshot()
        except OSError as error:
            raise Incomplete(_storage_message(self.directory, error, command)) from error
        watch(last)
        return Outcome(self.directory, complete, worked, last)

    @property
    def _is_over(self) -> bool:
        """Whether an earlier phase was interrupted, or lost its engines, at its very end."""
        return self._interrupt.event.is_set() or (self.engines is not None and self.engines.ending)

    def _started(self, run: Run) -> bool:
        """Start Ray, the broker and the engines unless an earlier phase did; False when interrupted."""
        if self.engines is not None:
            return True
        options = RayOptions(self.options.address, self.plan, self.options.verbose, run.space.family_name)
        try:
            ray_address = self._stack.enter_context(connect(options))
        except SystemExit:  # from the handler for SIGTERM that Ray has while it starts
            raise Incomplete(f"stopped while Ray started; continue with: {run.continued_by}") from None
        self._interrupt.install()  # again: starting Ray puts a handler in place that aborts
        logger.info("Ray runs at %s; %s", ray_address, self.plan)
        if self._interrupt.event.is_set():
            return False
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from search.broker import Broker

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.address = {"name": f"broker-{secrets.token_hex(4)}", "namespace": "loss-search"}
        named = ray.remote(Broker).options(
            name=self.address["name"], max_concurrency=1000, num_cpus=0, scheduling_strategy=here
        )
        self.broker = named.remote()
        most = run.num_trials()
        self.engines = Engines(run.space, self.plan, self.address, self.broker, self.directory, most)
        self._stack.callback(self.engines.end, _nothing)
        self.engines.start()
        run.engines_wanted = self.engines.wanted
        return True

    def _execute(self, run: Run, watch: Callable[[Snapshot], None]) -> None:
        """Let Tune run the phase's trials; the engines have let go of all of them when it returns."""
        clock, closing = _Clock(), []

        def between() -> None:
            if self._interrupt.event.is_set() or self.engines.all_failed:
                run.interrupted = True
            if run.interrupted and not closing:
                # Now, not in `engines.end`: proxies and engines wait for each other's rows otherwise.
                closing.append(self.broker.close.remote())
            try:
                run.tick()
                if clock.due():
                    _look_at(run, self.broker)
                    self.engines.tend(run)
                    run.engines_wanted = self.engines.wanted
                    watch(run.snapshot())
            except OSError as error:
                run.give_up(error)

        try:
            _tune(run, self.engines, self.address, self.broker, between)
            self._wait_until_idle(run, between)
        except BaseException:
            self.engines.end(_nothing)  # what `between` does may be what failed
            raise
        if run.interrupted:
            self.engines.end(between, wait=bool(run.occupancy["engines"]))
        if run.fault is not None:
            raise run.fault
        if self.engines.all_failed and run.work_left():
            raise Incomplete(
                f"every engine failed, the first with: {self.engines.first_error}; see {run.directory.log}, "
                f"then continue with: {run.continued_by}"
            )

    def _wait_until_idle(self, run: Run, between: Callable[[], None]) -> None:
        """Until the engines have written the files of the last trials and hold none of them.

        The trials of the next phase have numbers of their own, from 0 again.
        """
        while not run.interrupted:
            between()
            _look_at(run, self.broker)
            if not run.occupancy["busy"]:
                return
            time.sleep(POLL_S)


def _nothing() -> None:
    """Between two looks at engines that end, when nothing may be written any more."""


def _look_at(run: Run, broker: Any) -> None:
    """How full the slots are, and whether an engine or the broker itself is in trouble."""
    import ray

    try:
        run.occupancy = ray.get(broker.occupancy.remote(), timeout=LOOK_S)
    except ray.exceptions.GetTimeoutError:
        # A busy machine, most of the time. One that stays silent is ended, and the next look finds it dead.
        run.heard_at = run.heard_at or time.monotonic()
        if time.monotonic() - run.heard_at > silence_s():
            ray.kill(broker)
        return
    except ray.exceptions.RayActorError:
        run.give_up(
            Incomplete(
                "the broker between trials and engines died; nothing that was reported is lost, continue "
                f"with: {run.continued_by}"
            )
        )
        return
    run.heard_at = time.monotonic()
    if run.occupancy["fault"] is not None:
        run.give_up(Incomplete(f"{run.occupancy['fault']}; then continue with: {run.continued_by}"))
    if run.stage in ("starting", "waiting") and run.occupancy["engines"]:
        run.stage = "searching"


def _tune(run: Run, engines: Engines, address: dict, broker: Any, between: Callable[[], None]) -> None:
    """Let Ray Tune execute trials until the study has no more, or the run is interrupted."""
    from ray import tune

    from search.proxy import Proxy
    from search.tune_adapters import Housekeeping, StudySearcher, StudyStopper

    searcher = StudySearcher(run, broker, address, lambda: engines.concurrent)
    grown = GROWN if engines.plan.grows else engines.concurrent
    with tempfile.TemporaryDirectory(prefix="loss-search-tune-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(Proxy, tune.PlacementGroupFactory(**nodes.beside_the_driver())),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=min(grown, max(run.num_trials(), 1)),
                reuse_actors=True,
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


def _storage_message(directory: RunDirectory, error: OSError, command: str) -> str:
    if not directory.events.exists():
        return f"{directory.path}: the run was moved or removed while it was searched; what is gone is lost"
    free = "; the disk is full, free some space" if error.errno == errno.ENOSPC else ""
    # Arrow's errors name no file, and Ray Tune writes temporary ones beside ours.
    place = error.filename or f"the run directory {directory.path} or {tempfile.gettempdir()}"
    return (
        f"cannot write {place}: {error.strerror or error}{free}; nothing that was "
        f"reported is lost, continue with: {command}"
    )
