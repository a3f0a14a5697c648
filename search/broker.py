"""The actor between trials and slots: who waits, who trains where, and which row still waits for a decision.

`Ledger` is the bookkeeping, without Ray and without waiting; `Broker` wraps it thinly as an async actor.
The driver submits jobs in the order of the study and ends them; proxies (one a Tune trial) take rows;
engines (worker groups) ask for jobs and post rows.

    driver:  submit, withdraw                         withdraw: pruned, complete, failed, interrupted
    proxy:   join ─► take ─► take ─► ...              `take` says: the row before was answered "continue"
    engine:  attach ─► next_jobs ─► post ─► next_jobs ...     `post` returns with the decisions
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainables import static_key
from trainables.decisions import CONTINUE, PAUSE

__all__ = ["Broker", "Ledger"]

MAX_SKIPS = 16  # jobs that may overtake one that needs an empty engine before an engine is drained for it


@dataclass
class Entry:
    """One trial in the ledger. `job` holds at least "trial" and "static"; it is sent to engines as it is."""

    job: dict[str, Any]
    engine: str | None = None  # None: it waits in the queue
    acknowledged: int = 0  # epochs whose rows were answered; rows up to here are never delivered again
    pending: dict[str, Any] | None = None  # a row without a decision
    delivered: bool = False  # the pending row has been handed to the proxy
    failed: dict[str, Any] | None = None  # the message that it failed, while a row before it waits
    failures: int = 0  # engines that died or raised while they trained it
    suspects: Sequence[str] = ()  # the nodes of the last of them that died
    withdrawn: str | None = None  # FINISH or PAUSE once the driver has ended it
    skips: int = 0


class Ledger:
    """Pure bookkeeping: every method returns at once."""

    def __init__(self, max_failures: int = 2) -> None:
        self.max_failures = max_failures
        self.entries: dict[int, Entry] = {}
        self.queue: list[int] = []
        self.engines: dict[str, dict[str, Any]] = {}
        self.leaving: set[str] = set()  # engines whose node is about to go
        self.closed = False

    # ---- proxies and driver

    def submit(self, job: dict[str, Any]) -> None:
        """A trial asks to be trained, after all that asked before it."""
        trial = job["trial"]
        assert trial not in self.entries, f"trial {trial} is submitted twice"
        self.entries[trial] = Entry(job, acknowledged=job.get("reported", 0))
        self.queue.append(trial)

    def join(self, trial: int) -> None:
        """A proxy starts.

        When another one died before it, a row that this one did not answer is delivered again.
        """
        if trial in self.entries:
            self.entries[trial].delivered = False

    def acknowledge(self, trial: int) -> None:
        """The proxy comes back for the next row, so the delivered one was answered with "continue"."""
        entry = self.entries.get(trial)
        if entry is not None and entry.pending is not None and entry.delivered:
            entry.acknowledged = max(entry.acknowledged, entry.pending.get("epoch", 0))
            entry.pending, entry.failed, entry.delivered = entry.failed, None, False

    def row_for(self, trial: int) -> dict[str, Any] | None:
        """The row that waits for this trial's proxy, or None.

        Once the search is over: a message that says so.
        """
        if self.closed:
            return {"trial": trial, "closed": True}
        entry = self.entries.get(trial)
        if entry is None or entry.pending is None or entry.delivered:
            return None
        entry.delivered = True
        return entry.pending

    def withdraw(self, trial: int, how: str) -> None:
        """End a trial (`how`: FINISH or PAUSE): out of the queue, or out of its slot at the engine's next
        turn.
        """
        entry = self.entries.get(trial)
        if entry is None:
            return
        entry.withdrawn, entry.pending = how, None
        if entry.engine is None:
            self.queue = [waiting for waiting in self.queue if waiting != trial]
            del self.entries[trial]

    # ---- engines

    def attach(self, engine: str, about: dict[str, Any]) -> None:
        """An engine (re)starts: what it held before goes back to the front of the queue, one failure
        older.
        """
        held = [trial for trial, entry in self.entries.items() if entry.engine == engine]
        self._suspect(engine, held)
        self.engines[engine] = {**about, "restarts": self.engines.get(engine, {}).get("restarts", -1) + 1}
        self.leaving.discard(engine)
        self.requeue(held, error="the engine that trained it died", reason="engine_died")

    def detach(self, engine: str) -> None:
        """An engine is gone for good: its trials wait for another one."""
        held = [trial for trial, entry in self.entries.items() if entry.engine == engine]
        self._suspect(engine, held)
        self.engines.pop(engine, None)
        self.requeue(held, error="the engine that trained it is gone", reason="engine_died")

    def ended(self, engine: str) -> None:
        """The search is over, and an engine has saved what it held."""
        self.engines.pop(engine, None)

    def gone(self, nodes: Sequence[str]) -> None:
        """These nodes have died: what their engines held waits for another one, and no trial is to blame.

        Ray may have restarted such an engine elsewhere before the death of its node was known; the failure
        that its trials were given then is taken back.
        """
        for engine, about in list(self.engines.items()):
            if set(nodes) & set(about.get("nodes", ())):
                del self.engines[engine]
                self.leaving.discard(engine)
                held = [trial for trial, entry in self.entries.items() if entry.engine == engine]
                for trial in reversed(held):
                    self._wait_again(trial)
        for entry in self.entries.values():
            if set(nodes) & set(entry.suspects):
                entry.failures, entry.suspects = entry.failures - 1, ()
                entry.job = {**entry.job, "alone": entry.failures > 0}

    def _suspect(self, engine: str, held: Sequence[int]) -> None:
        for trial in held:
            self.entries[trial].suspects = self.engines.get(engine, {}).get("nodes", ())

    def leave(self, engine: str) -> None:
        """The node of an engine will soon be gone: it saves what it holds, and others continue it."""
        self.leaving.add(engine)

    def _wait_again(self, trial: int) -> None:
        entry = self.entries[trial]
        if entry.withdrawn:
            del self.entries[trial]
            return
        entry.engine, entry.job = None, {**entry.job, "resume": True}
        self.queue.insert(0, trial)

    def requeue(self, trials: Sequence[int], *, error: str, reason: str) -> None:
        """Trials whose engine died or raised: back to the queue, or failed when they have had their
        retries.
        """
        for trial in reversed(trials):
            entry = self.entries.get(trial)
            if entry is None:
                continue
            if entry.withdrawn:
                del self.entries[trial]
                continue
            alone = entry.job.get("alone", False)
            entry.failures += 1
            entry.engine = None
            if entry.failures > self.max_failures and alone:
                retries = entry.failures - 1
                failed = {"trial": trial, "failed": reason, "error": error, "retries": retries}
                if entry.pending is None:
                    entry.pending, entry.delivered = failed, False
                else:
                    entry.failed = failed
                continue
            # Which member of a stack broke it cannot be told from outside: each is tried alone from now on.
            entry.job = {**entry.job, "resume": True, "alone": True, "retries": entry.failures}
            self.queue.insert(0, trial)

    def assign(self, engine: str, current: str | None, free: int, busy: int) -> list[dict[str, Any]]:
        """Jobs for an engine with `free` free slots, `busy` full ones and a stack of static key `current`."""
        given: list[dict[str, Any]] = []
        if engine in self.leaving:
            return given
        held = (entry for entry in self.entries.values() if entry.engine == engine)
        if busy and any(entry.job.get("alone") for entry in held):
            return given
        passed: list[Entry] = []
        for trial in list(self.queue):
            if len(given) >= free:
                break
            entry = self.entries[trial]
            alone = entry.job.get("alone", False)
            key = static_key(entry.job["static"])
            if busy + len(given) > 0 and (alone or key != current):
                if entry.skips >= MAX_SKIPS:
                    break  # let the engine drain, so that this one is not overtaken for ever
                passed.append(entry)
                continue
            for overtaken in passed:
                overtaken.skips += 1
            current = key
            entry.engine, entry.skips = engine, 0
            self.queue.remove(trial)
            given.append({**entry.job, "reported": entry.acknowledged})
            if alone:
                break
        return given

    def post(self, engine: str, rows: Sequence[dict[str, Any]]) -> None:
        """Rows of an engine's trials.

        One that was answered before (the epoch is trained again) needs no answer.
        """
        for row in rows:
            entry = self.entries.get(row["trial"])
            if entry is None or entry.withdrawn or entry.engine != engine:
                continue
            # A row that waits is not replaced by its like from a restarted engine: it may have been
            # delivered.
            known = entry.acknowledged if entry.pending is None else entry.pending.get("epoch", 0)
            if row.get("epoch", 0) > known or "failed" in row:
                entry.pending, entry.delivered = row, False

    def decisions(self, engine: str, trials: Sequence[int]) -> dict[int, str] | None:
        """What to do with each trial, or None while one of their rows still waits for its answer."""
        found = {}
        for trial in trials:
            entry = self.entries.get(trial)
            if entry is None or entry.engine != engine or (self.closed and entry.pending is not None):
                found[trial] = PAUSE
            elif entry.withdrawn:
                found[trial] = entry.withdrawn
            elif entry.pending is not None:
                return None
            else:
                found[trial] = PAUSE if engine in self.leaving else CONTINUE
        return found

    def released(self, engine: str, trials: Sequence[int]) -> None:
        """The engine has evicted these trials."""
        for trial in reversed(trials):
            entry = self.entries.get(trial)
            if entry is not None and entry.engine == engine and entry.withdrawn:
                del self.entries[trial]
            elif entry is not None and entry.engine == engine and engine in self.leaving:
                self._wait_again(trial)

    def occupancy(self) -> dict[str, Any]:
        """Slots of all attached engines and how many of them train."""
        slots = sum(about.get("slots", 0) for about in self.engines.values())
        busy = sum(entry.engine is not None for entry in self.entries.values())
        where = {engine: about.get("nodes", []) for engine, about in self.engines.items()}
        engines = sorted(self.engines)
        return {
            "slots": slots,
            "busy": busy,
            "queued": len(self.queue),
            "engines": engines,
            "nodes": where,
        }


class Broker:
    """The actor: the ledger, and waiting for it to change. Create it with `ray.remote(Broker)`."""

    def __init__(self, max_failures: int = 2) -> None:
        self.ledger = Ledger(max_failures)
        self.changed = asyncio.Condition()
        self.facts: dict[str, Any] = {}

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _until(self, found, timeout_s: float):
        """The first result of `found()` that is not None, or None after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self.changed:
            while (result := found()) is None:
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0:
                    return None
                try:
                    await asyncio.wait_for(self.changed.wait(), left)
                except TimeoutError:
                    return None
        return result

    async def submit(self, job: dict[str, Any]) -> None:
        self.ledger.submit(job)
        await self._notify()

    async def join(self, trial: int) -> None:
        self.ledger.join(trial)
        await self._notify()

    async def take(self, trial: int, timeout_s: float) -> dict[str, Any] | None:
        """The trial's next row; None when there is none within `timeout_s` (ask again with `wait`)."""
        self.ledger.acknowledge(trial)
        await self._notify()
        return await self.wait(trial, timeout_s)

    async def wait(self, trial: int, timeout_s: float) -> dict[str, Any] | None:
        return await self._until(lambda: self.ledger.row_for(trial), timeout_s)

    async def withdraw(self, trial: int, how: str) -> None:
        self.ledger.withdraw(trial, how)
        await self._notify()

    async def attach(self, engine: str, about: dict[str, Any]) -> None:
        self.ledger.attach(engine, about)
        await self._notify()

    async def detach(self, engine: str) -> None:
        self.ledger.detach(engine)
        await self._notify()

    async def ended(self, engine: str) -> None:
        self.ledger.ended(engine)
        await self._notify()

    async def gone(self, nodes: list[str]) -> None:
        self.ledger.gone(nodes)
        await self._notify()

    async def leave(self, engine: str) -> None:
        self.ledger.leave(engine)
        await self._notify()

    async def next_jobs(
        self, engine: str, current: str | None, free: int, busy: int, timeout_s: float
    ) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the search is over, and jobs for free slots.

        Waits only when the engine has nothing to train.
        """

        def found():
            if self.ledger.closed or (engine in self.ledger.leaving and not busy):
                return True, []
            jobs = self.ledger.assign(engine, current, free, busy)
            return (False, jobs) if jobs or busy else None

        return await self._until(found, timeout_s) or (False, [])

    async def post(self, engine: str, rows: list[dict[str, Any]], timeout_s: float) -> dict[int, str] | None:
        """Hand in rows; returns the decisions, or None when they did not come in time (ask again:
        `decisions`).
        """
        self.ledger.post(engine, rows)
        await self._notify()
        return await self.decisions(engine, [row["trial"] for row in rows], timeout_s)

    async def decisions(self, engine: str, trials: list[int], timeout_s: float) -> dict[int, str] | None:
        return await self._until(lambda: self.ledger.decisions(engine, trials), timeout_s)

    async def released(self, engine: str, trials: list[int]) -> None:
        self.ledger.released(engine, trials)
        await self._notify()

    async def raised(self, engine: str, trials: list[int], error: str, reason: str) -> None:
        """An engine met an exception while it trained these trials, and holds none of them any more."""
        entries = self.ledger.entries
        held = [trial for trial in trials if trial in entries and entries[trial].engine == engine]
        self.ledger.requeue(held, error=error, reason=reason)
        await self._notify()

    async def publish(self, name: str, value: Any) -> None:
        """Tell every engine and the driver a fact, such as the number of slots that the first engine
        measured.
        """
        self.facts[name] = value
        await self._notify()

    async def published(self, name: str, timeout_s: float = 0.0) -> Any:
        return await self._until(lambda: self.facts.get(name), timeout_s)

    async def occupancy(self) -> dict[str, Any]:
        return {**self.ledger.occupancy(), "fault": self.facts.get("fault")}

    async def close(self) -> None:
        """The search is over: engines end at their next turn."""
        self.ledger.closed = True
        await self._notify()
