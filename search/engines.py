"""The engines as the driver holds them: long-lived Ray Train worker groups, one thread each in this process.

What runs inside them is `trainables.ray_worker`; they outlive trials, and the phases of a run.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from search.cluster import EnginePlan
from search.run_directory import version
from search.space import Space

__all__ = ["Engines"]

logger = logging.getLogger("loss_search.driver")

ENGINE_RETRIES = 20  # restarts of one worker group; a trial that breaks engines fails long before
CHECKPOINT_EVERY_S = 10.0
GROUP_TIMEOUT_S = 120  # a collective that takes longer ends the engine
SHUTDOWN_S = 60.0
KILLS, KILL_AGAIN_S = 20, 1.0  # of controllers, for one may be started while another is ended


class Engines:
    """The engines of one driver: a thread each that holds a `TorchTrainer.fit`."""

    def __init__(self, space: Space, plan: EnginePlan, address: dict[str, str], broker: Any) -> None:
        self.space, self.plan, self.address, self.broker = space, plan, address, broker
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

    def end(self, between: Callable[[], None], *, wait: bool = True) -> None:
        """Close the broker and wait until the engines have saved what they hold; a second call does nothing.

        `wait=False` for engines that are still starting: they hold nothing.
        """
        import ray

        if self.ending:
            return
        self.ending = True
        try:
            ray.get(self.broker.close.remote())
        except ray.exceptions.RayActorError:
            logger.error("the broker is gone; the engines end when they notice it")
        if wait and not self._ended_within(SHUTDOWN_S, between):
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
        space = self.space
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
