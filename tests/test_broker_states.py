"""The ledger against a model of engines and proxies that work, die and return in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from search.broker import Ledger
from trainables import static_key
from trainables.decisions import CONTINUE, FINISH, PAUSE

SLOTS, ENGINES, STATICS, MAX_FAILURES = 3, ("a", "b"), ({"width": 4}, {"width": 8}), 1

engines = st.sampled_from(ENGINES)
trials = st.integers(0, 7)


@dataclass
class Trained:
    """A trial in a real slot."""

    epoch: int
    static: str
    alone: bool


@dataclass
class Process:
    """What a real engine holds; `posted` until it knows the decisions about its last rows."""

    slots: dict[int, Trained] = field(default_factory=dict)
    posted: bool = False


@dataclass
class Proxy:
    """What the driver knows about a trial: rows delivered since the proxy joined, and epochs answered."""

    delivered: set[int] = field(default_factory=set)
    unanswered: int | None = None
    answered: int = 0
    failed: bool = False


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(MAX_FAILURES)
        self.processes = {name: Process() for name in ENGINES}
        for name in ENGINES:
            self.ledger.attach(name, {"slots": SLOTS})
        self.proxies: dict[int, Proxy] = {}
        self.ended: set[int] = set()
        self.known: dict[int, int] = {}  # acknowledged epochs as last seen

    # ---- driver and proxies

    @rule(trial=trials, static=st.sampled_from(STATICS))
    def submit(self, trial: int, static: dict[str, int]) -> None:
        if trial not in self.proxies:
            self.ledger.submit({"trial": trial, "static": static})
            self.proxies[trial] = Proxy()

    @rule(trial=trials)
    def restart_proxy(self, trial: int) -> None:
        if trial in self.proxies:
            self.ledger.join(trial)
            self.proxies[trial].delivered.clear()
            self.proxies[trial].unanswered = None

    @rule(trial=trials)
    def take(self, trial: int) -> None:
        proxy = self.proxies.get(trial)
        if proxy is None or proxy.failed:
            return
        if proxy.unanswered is not None:
            proxy.answered, proxy.unanswered = proxy.unanswered, None
        self.ledger.acknowledge(trial)
        self._receive(trial)

    @rule(trial=trials)
    def wait(self, trial: int) -> None:
        if trial in self.proxies and not self.proxies[trial].failed:
            self._receive(trial)

    def _receive(self, trial: int) -> None:
        proxy, row = self.proxies[trial], self.ledger.row_for(trial)
        if row is None:
            return
        assert trial not in self.ended
        if "failed" in row:
            proxy.failed = True
            return
        epoch = row["epoch"]
        assert epoch not in proxy.delivered, "delivered at most once to a proxy"
        assert epoch == proxy.answered + 1, "no epoch is left out, and none that was answered comes again"
        proxy.delivered.add(epoch)
        proxy.unanswered = epoch

    @rule(trial=trials, how=st.sampled_from([FINISH, PAUSE]))
    def withdraw(self, trial: int, how: str) -> None:
        if trial in self.proxies:
            self.ledger.withdraw(trial, how)
            self.ended.add(trial)

    # ---- engines

    @rule(name=engines, checkpoint=st.integers(0, 3))
    def ask_for_jobs(self, name: str, checkpoint: int) -> None:
        process = self.processes[name]
        if process.posted:
            return
        busy = len(process.slots)
        current = next(iter(process.slots.values())).static if busy else None
        for job in self.ledger.assign(name, current, SLOTS - busy, busy):
            trial, epoch = job["trial"], job["reported"]
            assert trial not in self.ended
            assert not any(trial in other.slots for other in self.processes.values()), "one engine a trial"
            epoch = max(0, epoch - checkpoint) if job.get("resume") else epoch
            process.slots[trial] = Trained(epoch, static_key(job["static"]), job.get("alone", False))

    @rule(name=engines)
    def train_an_epoch(self, name: str) -> None:
        process = self.processes[name]
        if process.slots and not process.posted:
            for trained in process.slots.values():
                trained.epoch += 1
            rows = [{"trial": trial, "epoch": slot.epoch} for trial, slot in process.slots.items()]
            self.ledger.post(name, rows)
            process.posted = True

    @rule(name=engines)
    def hear_decisions(self, name: str) -> None:
        process = self.processes[name]
        if not process.posted:
            return
        decisions = self.ledger.decisions(name, list(process.slots))
        if decisions is None:
            return
        process.posted = False
        leaving = [trial for trial, decision in decisions.items() if decision != CONTINUE]
        for trial in leaving:
            assert trial in self.ended
            del process.slots[trial]
        self.ledger.released(name, leaving)

    @rule(name=engines)
    def die_and_return(self, name: str) -> None:
        self.processes[name] = Process()
        self.ledger.attach(name, {"slots": SLOTS})

    @rule(name=engines)
    def leave_and_return(self, name: str) -> None:
        self.processes[name] = Process()
        self.ledger.detach(name)
        self.ledger.attach(name, {"slots": SLOTS})

    @precondition(lambda self: any(process.slots for process in self.processes.values()))
    @rule(name=engines)
    def raise_an_exception(self, name: str) -> None:
        process = self.processes[name]
        held = list(process.slots)
        self.processes[name] = Process()
        entries = self.ledger.entries
        held = [trial for trial in held if trial in entries and entries[trial].engine == name]
        self.ledger.requeue(held, error="", reason="raised")

    # ---- what holds at all times

    @invariant()
    def every_trial_is_in_one_place(self) -> None:
        queue = self.ledger.queue
        assert len(queue) == len(set(queue))
        for trial, proxy in self.proxies.items():
            places = [name for name, process in self.processes.items() if trial in process.slots]
            assert len(places) + queue.count(trial) <= 1
            if trial not in self.ended and not proxy.failed:
                entry = self.ledger.entries[trial]
                assert places == ([entry.engine] if entry.engine else [])
                assert places or trial in queue or "failed" in (entry.failed or entry.pending), (
                    "no trial is lost"
                )

    @invariant()
    def acknowledged_epochs_never_go_back(self) -> None:
        for trial, entry in self.ledger.entries.items():
            assert entry.acknowledged >= self.known.get(trial, 0)
            self.known[trial] = entry.acknowledged
            assert entry.acknowledged == self.proxies[trial].answered

    @invariant()
    def stacks_are_of_one_static_setting_and_no_larger_than_their_slots(self) -> None:
        for process in self.processes.values():
            assert len(process.slots) <= SLOTS
            assert len({slot.static for slot in process.slots.values()}) <= 1
            if any(slot.alone for slot in process.slots.values()):
                assert len(process.slots) == 1

    def teardown(self) -> None:
        """From whatever state: when nothing fails any more, every trial is trained to its end."""
        goal = 3 + max((slot.epoch for p in self.processes.values() for slot in p.slots.values()), default=0)
        goal = max([goal, *(proxy.answered + 2 for proxy in self.proxies.values())])
        for _ in range(60 * (1 + len(self.proxies))):
            for trial, proxy in self.proxies.items():
                if trial in self.ended:
                    continue
                if proxy.failed or proxy.answered >= goal:
                    self.withdraw(trial, FINISH)
                else:
                    self.take(trial)
            for name in ENGINES:
                self.hear_decisions(name)
                self.ask_for_jobs(name, 0)
                self.train_an_epoch(name)
            if set(self.proxies) == self.ended and not self.ledger.entries:
                return
        waiting = set(self.proxies) - self.ended
        raise AssertionError(f"trials {waiting} never end; entries left {self.ledger.entries}")


LedgerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


class TestLedgerStates(LedgerMachine.TestCase):
    pass
