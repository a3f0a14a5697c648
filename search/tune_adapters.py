"""What Ray Tune needs to execute the study's trials: where they come from, when they end, what runs between.

Tune's own state (its experiment directory, its snapshots) is never read back: a resumed search is a new
Tune run over the same study.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from ray.actor import ActorHandle
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from search.confirm import LATER
from search.run import Run
from trainables.decisions import FINISH, PAUSE

__all__ = ["Housekeeping", "StudySearcher", "StudyStopper"]

logger = logging.getLogger("loss_search.driver")


class _NotStored:
    """Tune pickles what it was given into files that we never read: there these objects are empty."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_NotStored, Searcher):
    """Tune asks, the study answers: one configuration after the other until its budget is spent.

    At most `concurrent()` are under way at a time; on a cluster that number grows with its nodes.
    """

    def __init__(
        self, run: Run, broker: ActorHandle, broker_address: dict[str, str], concurrent: Callable[[], int]
    ) -> None:
        super().__init__()
        self.run, self.broker, self.broker_address = run, broker, broker_address
        self.concurrent = concurrent
        self.numbers: dict[str, int] = {}
        self.under_way: set[int] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        self.under_way = {number for number in self.under_way if not self.run.trials[number].ended}
        if len(self.under_way) >= self.concurrent() and not self.run.interrupted:
            return None  # Tune asks again
        asked = self.run.next_trial()
        if asked is None:
            return Searcher.FINISHED
        if asked is LATER:
            return None  # Tune asks again
        self.numbers[trial_id] = asked.number
        self.under_way.add(asked.number)
        # Submitted here and not by the proxy, which takes its time to start: the order is the study's, and
        # a slot is refilled at once.
        self.broker.submit.remote(self.run.job(asked))
        return {"broker": self.broker_address, "trial": asked.number}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Nothing: the study was told by the stopper, or by `Housekeeping` when the proxy failed for good."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's journal is the searcher's state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search is resumed from its study, see search.driver")


class StudyStopper(_NotStored, Stopper):
    """Hands each row to the run, which decides; tells the broker at once when a trial ends."""

    def __init__(self, run: Run, broker: ActorHandle) -> None:
        self.run, self.broker = run, broker

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        message = json.loads(result["report"])
        try:
            ends = self.run.receive(message)
        except Exception as error:
            # Tune would turn it into an error of its own and go on; the driver raises it when Tune has
            # stopped.
            self.run.give_up(error)
            self.broker.withdraw.remote(message["trial"], PAUSE)
            return True
        if ends and "closed" not in message:
            self.broker.withdraw.remote(message["trial"], FINISH)
        return ends

    def stop_all(self) -> bool:
        return self.run.interrupted


class Housekeeping(_NotStored, Callback):
    """Between Tune's steps: due writes, the display; and trials whose proxy died too often."""

    def __init__(
        self, run: Run, broker: ActorHandle, searcher: StudySearcher, between: Callable[[], None]
    ) -> None:
        self.run, self.broker, self.searcher, self.between = run, broker, searcher, between

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self.between()

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        number = self.searcher.numbers[trial.trial_id]
        if not self.run.trials[number].ended and not self.run.interrupted:
            error = f"the trial's proxy failed and was given up: {trial.error_filename or 'no traceback'}"
            self.run.end(number, "FAIL", "proxy_failed", error=error)
        self.broker.withdraw.remote(number, FINISH)
