"""The Ray Train entry: one long-lived worker of an engine, serving trials until the broker closes.

Every worker of the group runs `serve`. Rank 0 alone talks to the broker and writes files; what it decides
reaches the others by broadcast, so that all apply the same admissions and evictions before the same epoch.
"""

from __future__ import annotations

import logging
import time
import traceback
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from trainables import family_named, static_key
from trainables.decisions import CONTINUE, FINISH
from trainables.engine import Engine
from trainables.errors import BadCheckpoint, NotShared
from trainables.family import Data
from trainables.member import Job, Report
from trainables.slots import choose_slots
from trainables.trial_files import TrialFiles, read_last, report_as_dict
from trainables.trial_storage import settle, storage_of
from trainables.workers import Alone, Group

__all__ = ["serve"]

logger = logging.getLogger("loss_search.engine")

IDLE_S = 5.0  # the longest wait for a job before the other workers hear that there is none
MEASURED_S = 90.0  # less than the timeout of the other workers, which wait for the same number
VISIBLE_S = 10.0  # what another host has written may take this long to be seen
DECISION_S = 30.0  # one remote call waits at most this long for decisions


def serve(config: dict[str, Any]) -> None:
    """Train trials until the broker closes. `config` is what `search.driver` puts together for an engine."""
    torch.set_num_threads(config["threads"])
    context = ray.train.get_context()
    workers = Alone()
    if context.get_world_size() > 1:
        workers = Group()
    with_gpu = torch.cuda.is_available()
    worker = _Worker(config, workers, ray.train.torch.get_device() if with_gpu else torch.device("cpu"))
    worker.serve()


class _Worker:
    def __init__(self, config: dict[str, Any], workers: Alone | Group, device: torch.device) -> None:
        self.config, self.workers, self.device = config, workers, device
        self.family = family_named(config["family"])
        self.data = _shared_data(config) if config["cluster"] else self.family.load(config["data"])
        self.engine: Engine | None = None
        self.files: dict[int, TrialFiles] = {}
        self.last: dict[int, Report] = {}  # each trial's newest report
        self.saved_at: dict[int, float] = {}
        self.retries: dict[int, int] = {}
        self.name = config["engine"]
        self.broker = None
        if workers.rank == 0:
            self.broker = _broker(config)

    def serve(self) -> None:
        nodes = self._nodes()
        try:
            if self.config["witness"] is not None:
                self._require_the_run_directory(**self.config["witness"])
            self.slots = self._agree_on_slots()
            if self.broker is not None:
                about = {"slots": self.slots, "device": str(self.device), "nodes": nodes}
                ray.get(self.broker.attach.remote(self.name, about))
            self._serve()
        except ray.exceptions.RayActorError as error:
            # The broker died, and with it the search; what was trained since the last checkpoint is kept.
            logger.error("%s: the broker is gone: %s", self.name, error)
            self._save_all()
        except NotShared as error:
            ray.get(_broker(self.config).publish.remote("fault", str(error)))
            raise
        except OSError as error:
            # A full disk or a vanished run directory: no retry helps, and no trial is to blame.
            if self.broker is not None:
                place = error.filename or "the run directory"
                fault = f"{self.name} cannot write {place}: {error.strerror or error}"
                ray.get(self.broker.publish.remote("fault", f"{fault}; make room or repair it"))
            raise

    def _serve(self) -> None:
        decisions: dict[int, str] = {}
        while True:
            orders = self._broadcast(self._orders(decisions) if self.broker is not None else None)
            admitted = self._apply(orders)
            if orders["close"]:
                self._save_all()
                if self.broker is not None:
                    ray.get(self.broker.ended.remote(self.name))
                return
            decisions = {}
            ahead = [state["report"] for job, state in admitted if _is_ahead(job, state)]
            if ahead:  # decided before anything is trained on: such a row can be its trial's last
                decisions = self._report_again(ahead)
            elif self.engine is not None and self.engine.occupied:
                decisions = self._epoch()

    def _nodes(self) -> list[str]:
        """Ids of the nodes on which this engine's workers are."""
        own = ray.get_runtime_context().get_node_id()
        if self.workers.count == 1:
            return [own]
        every: list[Any] = [None] * self.workers.count
        dist.all_gather_object(every, own)
        return sorted(set(every))

    def _require_the_run_directory(self, path: str, content: str) -> None:
        """Raises NotShared where this node sees another directory, or none, under the run's path."""
        witness, deadline = Path(path), time.monotonic() + VISIBLE_S
        while not (witness.is_file() and witness.read_text(encoding="utf-8") == content):
            if time.monotonic() > deadline:
                node = ray.util.get_node_ip_address()
                raise NotShared(
                    f"node {node} does not see the run directory {witness.parent}: every node must mount "
                    "what holds it (NFS, EFS) under the same path; do so, or give another --out"
                )
            time.sleep(0.5)

    # ------------------------------------------------------------------ what to train

    def _agree_on_slots(self) -> int:
        """The number of slots: as asked, or as the first engine measured it."""
        slots = self.config["slots"]
        if slots == "auto" and self.broker is not None:
            if self.config["measures"]:
                static = self.config["static"]
                slots, table = choose_slots(self.family, self.data, static, device=self.device)
                logger.info("slots measured: %s", table)
                ray.get(self.broker.publish.remote("slots", slots))
                ray.get(self.broker.publish.remote("slot_timings", table))
            else:
                slots = ray.get(self.broker.published.remote("slots", MEASURED_S))
            if slots is None:  # the first engine to start has not come that far, or has lost its node
                slots, _ = choose_slots(self.family, self.data, self.config["static"], device=self.device)
        return self._broadcast(slots)

    def _orders(self, decisions: dict[int, str]) -> dict[str, Any]:
        """Rank 0: who leaves and who enters before the next epoch."""
        evict = [trial for trial, decision in decisions.items() if decision != CONTINUE]
        busy = len(self.engine.occupied) - len(evict) if self.engine is not None else 0
        if evict:
            for trial in evict:
                if decisions[trial] == FINISH:
                    self.files[trial].finish(self.engine, self.engine.slot_of(trial))
                else:
                    self._save(trial)
                    self.files[trial].storage.settle()  # another engine may continue it at once
            if busy == 0:  # whoever waits for the last trials may read what they left, see `driver`
                settle(IDLE_S)
            ray.get(self.broker.released.remote(self.name, evict))
        current = static_key(self.engine.static) if self.engine is not None else None
        wanted = (self.name, current, self.slots - busy, busy, IDLE_S)
        close, jobs = ray.get(self.broker.next_jobs.remote(*wanted))
        admit = [(job, self._state_of(job)) for job in jobs]
        return {"close": close, "evict": evict, "admit": admit}

    def _state_of(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Where a requeued trial continues: its last checkpoint, or the beginning when it has none."""
        if not job.get("resume"):
            return None
        storage = storage_of(job["directory"])
        try:
            settings = {"static": job["static"], "version": self.config["version"]}
            return read_last(storage, family=self.family.name, **settings)
        except BadCheckpoint as error:
            # Trained again from its seed the trial gives the same rows; those that were reported are not
            # repeated.
            storage.bring("run.log")
            TrialFiles(storage, self.config["version"]).log(f"{error}; starts again from its seed")
            return None
        finally:
            storage.close()

    def _apply(self, orders: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
        """Evict and admit; returns the jobs that were admitted, with their checkpoints."""
        for trial in orders["evict"]:
            self.engine.evict(self.engine.slot_of(trial))
            self._forget(trial)
        admitted = []
        for job, state in orders["admit"]:
            try:
                self._admit(job, state)
            except Exception:
                # The boundary to a family's code: whatever it raises fails its own trial. The others in the
                # stack have not been touched: a member counts as admitted only when nothing raised.
                self._give_back([job["trial"]])
            else:
                admitted.append((job, state))
        return admitted

    def _admit(self, job: dict[str, Any], state: dict[str, Any] | None) -> None:
        if self.engine is None or self.engine.static != job["static"]:
            self.engine = None  # frees its memory before the next one takes as much
            self.engine = self._build(job["static"])
        directory = Path(job["directory"])
        plain = Job(job["trial"], job["seed"], job["epochs"], job["knobs"], directory, job.get("test", False))
        self.engine.admit(plain, self.engine.free_slots[0], state)
        self.retries[job["trial"]] = job.get("retries", 0)
        if self.broker is not None:
            storage = storage_of(job["directory"])
            if job.get("resume"):
                storage.bring("run.log")  # it goes on from there
            files = self.files[job["trial"]] = TrialFiles(storage, self.config["version"])
            self.saved_at[job["trial"]] = time.monotonic()
            begun = "starts" if state is None else f"continues after epoch {state['epoch']}"
            files.log(f"trial {job['trial']} {begun} on {self.name}, retries {job.get('retries', 0)}")

    def _build(self, static: dict[str, Any]) -> Engine:
        many = self.workers.count > 1
        return Engine(
            self.family,
            self.data,
            static,
            self.slots,
            device=self.device,
            workers=self.workers,
            wrap=ray.train.torch.prepare_model if many else lambda module: module,
            objective=self.config["objective"],
            maximise=self.config["maximise"],
        )

    def _report_again(self, rows: list[dict[str, Any]]) -> dict[int, str]:
        """Hand in the reports of checkpoints that are one epoch ahead of what the driver has recorded."""
        if self.broker is None:
            return {}
        for row in rows:
            self.last[row["trial"]] = Report(**row)
        return self._post([self._with_place(row) for row in rows])

    # ------------------------------------------------------------------ one epoch

    def _epoch(self) -> dict[int, str]:
        trials = [self.engine.members[slot].job.trial for slot in self.engine.occupied]
        try:
            reports = self.engine.run_epoch()
        except Exception:
            self.engine = None
            for trial in trials:
                self._forget(trial)
            self._give_back(trials)
            if self.workers.count > 1:
                raise  # the other workers may wait for this one: start the whole group again
            return {}
        if self.broker is None:
            return {}
        for report in reports:
            self.last[report.trial] = report
        return self._post([self._with_place(report_as_dict(report)) for report in reports])

    def _post(self, rows: list[dict[str, Any]]) -> dict[int, str]:
        posted = self.broker.post.remote(self.name, rows, DECISION_S)
        trials = [row["trial"] for row in rows]
        for trial in trials:  # while the driver decides; the checkpoint holds the row that waits
            if time.monotonic() - self.saved_at[trial] > self.config["checkpoint_every_s"]:
                self._save(trial)
        decisions = ray.get(posted)
        while decisions is None:
            decisions = ray.get(self.broker.decisions.remote(self.name, trials, DECISION_S))
        return decisions

    def _with_place(self, row: dict[str, Any]) -> dict[str, Any]:
        place = {"engine": self.name, "slot": self.engine.slot_of(row["trial"])}
        return {**row, **place, "retries": self.retries[row["trial"]]}

    def _give_back(self, trials: list[int]) -> None:
        """Tell the broker that these trials' training raised the exception that is being handled."""
        error = traceback.format_exc()
        memory = (
            "out of memory" in error.lower() or "can't allocate memory" in error or "MemoryError" in error
        )
        if self.broker is not None:
            reason = "out_of_memory" if memory else "raised"
            ray.get(self.broker.raised.remote(self.name, trials, error, reason))

    # ------------------------------------------------------------------ files and broadcast

    def _save(self, trial: int) -> None:
        self.files[trial].save_last(self.engine, self.engine.slot_of(trial), self.last.get(trial))
        self.saved_at[trial] = time.monotonic()

    def _save_all(self) -> None:
        """Before the engine ends: every trial that is still in a slot can be continued by a later one.

        What was left to upload goes now.
        """
        if self.broker is not None and self.engine is not None:
            for slot in self.engine.occupied:
                self._save(self.engine.members[slot].job.trial)
        settle()

    def _forget(self, trial: int) -> None:
        """The trial is in no slot any more."""
        if trial in self.files:
            self.files[trial].storage.close()
        for known in (self.files, self.last, self.saved_at, self.retries):
            known.pop(trial, None)

    def _broadcast(self, content: Any) -> Any:
        if self.workers.count == 1:
            return content
        box = [content]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def _broker(config: dict[str, Any]) -> Any:
    return ray.get_actor(config["broker"]["name"], namespace=config["broker"]["namespace"])


def _shared_data(config: dict[str, Any]) -> Data:
    """What the driver loaded, from Ray's object store: each node fetches it once, whatever its engines do."""
    broker = _broker(config)
    while (found := ray.get(broker.published.remote("data", DECISION_S))) is None:
        pass
    return ray.get(found[0])


def _is_ahead(job: dict[str, Any], state: dict[str, Any] | None) -> bool:
    """Whether a checkpoint holds a report that the driver has not recorded."""
    return state is not None and state["report"] is not None and state["report"]["epoch"] > job["reported"]
