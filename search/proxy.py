"""The Tune trainable that stands for a trial: it takes the trial's rows from the broker and hands them to
Tune.

Each `step` returns one epoch's row. That Tune calls `step` again means that it decided to continue; when it
stops a trial the driver withdraws the job, so a proxy that dies or is reused for another trial leaves no
slot behind. No torch here: a proxy should be small and start fast.
"""

from __future__ import annotations

import json
from typing import Any

import ray
from ray import tune

__all__ = ["Proxy"]

POLL_S = 30.0  # one remote call waits at most this long, so that a lost broker is noticed


class Proxy(tune.Trainable):
    """One trial. `config` holds `broker` (name and namespace of the actor) and `trial` (its number)."""

    def setup(self, config: dict[str, Any]) -> None:
        self.broker = ray.get_actor(config["broker"]["name"], namespace=config["broker"]["namespace"])
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self.trial = config["trial"]
        ray.get(self.broker.join.remote(self.trial))

    def step(self) -> dict[str, Any]:
        row = ray.get(self.broker.take.remote(self.trial, POLL_S))
        while row is None:
            row = ray.get(self.broker.wait.remote(self.trial, POLL_S))
        done = bool(row.get("done") or "failed" in row or "closed" in row)
        return {"epoch": row.get("epoch", 0), "report": json.dumps(row), "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: engines checkpoint trials by row; a proxy has no state of its own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load, see `save_checkpoint`."""
