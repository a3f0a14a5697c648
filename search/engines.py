"""The engines as the driver holds them: long-lived Ray Train worker groups, one thread each in this process.

What runs inside them is `trainables.ray_worker`; they outlive trials, and the phases of a run.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search import nodes
from search.cluster import EnginePlan
from search.run_directory import RunDirectory, version
from search.space import Space
from trainables import family_named

if TYPE_CHECKING:
    from search.run import Run

__all__ = ["Engines"]

logger = logging.getLogger("loss_search.driver")

ENGINE_RETRIES = 20  # restarts of one worker group; a trial that breaks engines fails long before
CLUSTER_RETRIES = 100  # nodes that die count too
TEND_S = 2.0
WITNESS = ".shared"  # a file of the run directory that every node with an engine has to see
CHECKPOINT_EVERY_S = 10.0
GROUP_TIMEOUT_S = 120  # a collective that takes longer ends the engine
CLOSE_S = 20.0
SHUTDOWN_S = 60.0
KILLS, KILL_AGAIN_S = 20, 1.0  # of controllers, for one may be started while another is ended


class Engines:
    """The engines of one driver: a thread each that holds a `TorchTrainer.fit`.

    Args:
        directory: of the run, which engines write to.
        most: engines that are of use, whatever a cluster grows to: one a trial.
    """

    def __init__(
        self,
        space: Space,
        plan: EnginePlan,
        address: dict[str, str],
        broker: Any,
        directory: RunDirectory,
        most: int,
    ) -> None:
        self.space, self.plan, self.address, self.broker = space, plan, address, broker
        self.most = max(1, most)
        self.witness = None  # of a run that lies in a store; nobody needs one on a single machine either
        if plan.cluster and directory.stored is None:
            self.witness = {"path": str(directory.path / WITNESS), "content": secrets.token_hex(8)}
        self.ending = False
        self.errors: dict[str, BaseException] = {}
        self.threads: dict[str, threading.Thread] = {}
        self.watch = nodes.Watch() if plan.cluster else None
        self._tended_at = 0.0
        self._told: int | None = None
        self.attached: set[str] = set()  # at the last look

    @property
    def wanted(self) -> int:
        """How many engines there should be: as planned, or on a cluster as many as it has room for."""
        room = self.watch.room.now // self.plan.workers_per_engine if self.plan.grows and self.watch else 0
        return min(max(self.plan.engines, room), self.most)

    @property
    def concurrent(self) -> int:
        """Trials that may be under way: one more than there are slots, so that a slot is refilled at once."""
        return self.wanted * self.plan.most_slots + 1

    @property
    def all_failed(self) -> bool:
        return bool(self.errors) and not any(thread.is_alive() for thread in self.threads.values())

    @property
    def first_error(self) -> str:
        lines = [line for line in str(next(iter(self.errors.values()))).splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no message"

    def start(self) -> None:
        # Ray's modules cannot be imported by two threads at once.
        importlib.import_module("search.process_group")
        importlib.import_module("trainables.ray_worker")
        if self.plan.cluster:
            self._share()
        self._start_missing()

    def _share(self) -> None:
        """What engines on other nodes need: the data, once a node, and a proof that they see the run."""
        import ray

        if self.witness is not None:
            Path(self.witness["path"]).write_text(self.witness["content"], encoding="utf-8")
        data = family_named(self.space.family_name).load(dict(self.space.data))
        ray.get(self.broker.publish.remote("data", [ray.put(data)]))

    def _start_missing(self) -> None:
        """Start engines until there are as many as wanted; one that failed for good is not replaced."""
        present = len(self.errors) + sum(thread.is_alive() for thread in self.threads.values())
        for _ in range(self.wanted - present):
            name, first = f"engine-{len(self.threads)}", not self.threads
            self.threads[name] = threading.Thread(
                target=self._serve, args=(name, first), name=name, daemon=True
            )
            self.threads[name].start()

    def tend(self, run: Run) -> None:
        """On a cluster, every other second: nodes that died, that will go, that joined."""
        if self.watch is None or self.ending or time.monotonic() - self._tended_at < TEND_S:
            return
        self._tended_at = time.monotonic()
        self.attached = set(run.occupancy["engines"])
        changes = self.watch.look()
        if changes.gone:
            self.broker.gone.remote(sorted(changes.gone))
        for engine, where in run.occupancy["nodes"].items():
            if changes.leaving & set(where):
                self.broker.leave.remote(engine)
        run.news += [*changes.news, *self._shortage()]
        self._start_missing()
        if run.stage in ("starting", "waiting") and not run.occupancy["engines"]:
            short = self.watch.room.now < self.plan.workers_per_engine
            run.stage = "waiting" if short else "starting"

    def _shortage(self) -> list[str]:
        """A line when nodes have room for fewer engines than there should be, once for each number."""
        fit = self.watch.room.now // self.plan.workers_per_engine
        told, self._told = self._told, fit
        if fit == told or fit >= self.wanted:
            return []
        waits = "the others wait for nodes, `ray status` on the head says for which"
        return [f"room for {fit} of {self.wanted} engines; {waits}"]

    def end(self, between: Callable[[], None], *, wait: bool = True) -> None:
        """Close the broker and wait until the engines have saved what they hold; a second call does nothing.

        `wait=False` for engines that are still starting: they hold nothing.
        """
        import ray

        if self.ending:
            return
        self.ending = True
        try:
            ray.get(self.broker.close.remote(), timeout=CLOSE_S)
        except ray.exceptions.RayActorError:
            logger.error("the broker is gone; the engines end when they notice it")
        except ray.exceptions.GetTimeoutError:
            logger.error("the broker does not answer; it is ended, and the engines when they notice it")
            ray.kill(self.broker)
        # An engine that waits for a node holds nothing.
        holding = self.threads if self.watch is None else self.attached & set(self.threads)
        if wait and not self._ended_within(SHUTDOWN_S, between, holding, or_let_go=self.watch is None):
            logger.error("engines did not end within %.0f s", SHUTDOWN_S)
        # A thread still in `fit` when Ray shuts down would end this process: its controller goes first. On a
        # cluster a controller that has nothing left gets a moment to give its workers back; here all goes.
        if self.watch is not None and self._ended_within(KILL_AGAIN_S, between, self.threads):
            return
        for _ in range(KILLS):
            for pid in _controllers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._ended_within(KILL_AGAIN_S, between, self.threads):
                return
        logger.error("threads of engines outlive their controllers")

    def _ended_within(
        self, seconds: float, between: Callable[[], None], names: Iterable[str], *, or_let_go: bool = False
    ) -> bool:
        """Whether these engines end in time; `or_let_go`: or say that they have saved what they held, up to
        two seconds before Ray Train notices.
        """
        deadline = time.monotonic() + seconds
        while any(self.threads[name].is_alive() for name in names):
            if or_let_go and self._none_holds():
                return True
            if time.monotonic() > deadline:
                return False
            between()
            time.sleep(0.05)
        return True

    def _none_holds(self) -> bool:
        import ray

        try:
            return not ray.get(self.broker.occupancy.remote(), timeout=CLOSE_S)["engines"]
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            return False  # who holds what is not known: wait for their ends

    def _serve(self, name: str, first: bool) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from search.process_group import GroupConfig
        from trainables.ray_worker import serve

        retries = CLUSTER_RETRIES if self.plan.cluster else ENGINE_RETRIES
        with tempfile.TemporaryDirectory(prefix="loss-search-train-", ignore_cleanup_errors=True) as scratch:
            trainer = TorchTrainer(
                serve,
                train_loop_config=self._config(name, first),
                torch_config=GroupConfig(backend=self.plan.backend, timeout_s=GROUP_TIMEOUT_S),
                scaling_config=ScalingConfig(
                    num_workers=self.plan.workers_per_engine,
                    use_gpu=self.plan.use_gpu,
                    resources_per_worker=self.plan.worker_resources,
                ),
                run_config=RunConfig(
                    name=name, storage_path=scratch, failure_config=FailureConfig(max_failures=retries)
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
            if not self.ending:  # for good, or because its node goes: another engine may follow
                self.broker.detach.remote(name)

    def _config(self, name: str, first: bool) -> dict[str, Any]:
        space = self.space
        return {
            "engine": name,
            "broker": self.address,
            "cluster": self.plan.cluster,
            "witness": self.witness,
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
    """Process ids of this search's Train controllers, which run beside the driver, one an engine."""
    import ray
    from ray._private import state

    own = ray.get_runtime_context().get_job_id()
    actors = [one for one in state.actors().values() if one["JobID"] == own and one["State"] == "ALIVE"]
    return [one["Pid"] for one in actors if one["ActorClassName"] == "TrainController" and one["Pid"]]
