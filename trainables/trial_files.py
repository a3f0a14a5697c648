"""What an engine leaves of a trial: checkpoints, pictures, facts and the trial's own log.

Where that is (a directory, or a folder of an object store) is `trainables.trial_storage`'s business.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from trainables import charts, checkpoint, keyed, static_key
from trainables.engine import Engine
from trainables.errors import BadCheckpoint
from trainables.member import Report
from trainables.trial_storage import TrialStorage

__all__ = ["TrialFiles", "read_last"]

logger = logging.getLogger("loss_search.trial")


class TrialFiles:
    """Writes one trial's `last.pt`, `model.pt`, `figures/`, `facts/` and `run.log`, each atomically.

    Args:
        place: the trial's own directory, made when it is missing, or its storage.
        version: of this package, stored in `last.pt` so that another version refuses to continue it.
    """

    def __init__(self, place: Path | TrialStorage, version: str) -> None:
        self.storage = place if isinstance(place, TrialStorage) else TrialStorage(place)
        self.directory, self.version = self.storage.directory, version
        (self.directory / "figures").mkdir(parents=True, exist_ok=True)
        (self.directory / "facts").mkdir(exist_ok=True)

    def log(self, message: str) -> None:
        """One line in the trial's `run.log`, and the same to the logger `loss_search.trial`."""
        logger.info(message)
        with (self.directory / "run.log").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {message}\n")
        self.storage.keep("run.log")

    def save_last(self, engine: Engine, slot: int, report: Report | None) -> None:
        """The whole state of the trial in `slot`, the report of its last epoch with it, and a picture."""
        member = engine.members[slot]
        state = engine.member_state(slot)
        about = {"format": checkpoint.FORMAT, "version": self.version, "family": engine.family.name}
        row = None if report is None else report_as_dict(report)
        static = static_key(engine.static)
        checkpoint.save({**about, "static": static, "report": row, **state}, self.directory / "last.pt")
        self.storage.keep("last.pt")
        if member.epoch > 0 and not member.diverged:
            self._picture(engine, slot, f"{engine.family.picture.name}_epoch_{member.epoch}.png", None)

    def finish(self, engine: Engine, slot: int) -> None:
        """The trial has ended: its best model as an ordinary `state_dict`, with picture and facts.

        `last.pt`, four times as large, is of no use after that and goes, last of all: a process that dies
        in here leaves a trial that can be continued. A trial without one finite epoch has no best.
        """
        member = engine.members[slot]
        if member.best_row is None:
            self.storage.remove("last.pt")
            self.log(f"trial {member.job.trial} ends after epoch {member.epoch} without a best model")
            return
        checkpoint.save(engine.stack.as_state(member.best_row), self.directory / "model.pt")
        self.storage.keep("model.pt")
        self._picture(engine, slot, f"{engine.family.picture.name}_best.png", member.best_row)
        if member.best_vectors:
            title = f"trial {member.job.trial}, epoch {member.best_epoch}: validation"
            charts.draw_bars(member.best_vectors, self.directory / "figures" / "vectors_best.png", title)
            self.storage.keep("figures/vectors_best.png")
        facts = {
            "epoch": member.best_epoch,
            engine.objective: engine.sign * member.best_value,
            **member.best_vectors,
        }
        write_json(self.directory / "facts" / "best.json", facts)
        self.storage.keep("facts/best.json")
        self.storage.remove("last.pt")
        self.log(f"trial {member.job.trial} ends after epoch {member.epoch}, best epoch {member.best_epoch}")

    def _picture(self, engine: Engine, slot: int, name: str, row: torch.Tensor | None) -> None:
        member = engine.members[slot]
        epoch = member.epoch if row is None else member.best_epoch
        path = self.directory / "figures" / name
        index = _sample(engine).to(engine.device)
        batch = {key: tensor[index] for key, tensor in engine.splits[engine.family.picture.split].items()}
        outputs = engine.predict(slot, batch, row)
        on_cpu = [{key: tensor.cpu() for key, tensor in tensors.items()} for tensors in (batch, outputs)]
        title = f"trial {member.job.trial}, epoch {epoch} of {member.job.epochs}"
        engine.family.draw(*on_cpu, engine.data.facts, path, title)
        self.storage.keep(f"figures/{name}")
        self.log(f"[VISUALIZATION] Saved: {self.storage.shown(f'figures/{name}')}")


def _sample(engine: Engine) -> torch.Tensor:
    """Examples of a picture, i64[n], in whole groups: the same for every trial, so that pictures compare."""
    wanted, group = engine.family.picture, engine.group
    source = keyed.generator(0, "picture")
    groups = torch.randperm(engine.data.size(wanted.split) // group, generator=source)
    chosen = groups[: max(1, wanted.examples // group)]
    return (chosen.unsqueeze(1) * group + torch.arange(group)).flatten()


def report_as_dict(report: Report) -> dict[str, Any]:
    """A report as plain values, as it travels to the driver and into `last.pt`."""
    return {
        "trial": report.trial,
        "epoch": report.epoch,
        "row": report.row,
        "vectors": report.vectors,
        "diverged": report.diverged,
        "done": report.done,
    }


def read_last(
    place: Path | TrialStorage, *, family: str, static: Mapping[str, Any], version: str
) -> dict[str, Any] | None:
    """The state in `last.pt`, or None when the trial has none yet.

    Raises BadCheckpoint when it is torn, or was written for another family, static setting, format or
    version.
    """
    storage = place if isinstance(place, TrialStorage) else TrialStorage(place)
    path = storage.bring("last.pt")
    if path is None:
        return None
    state = checkpoint.load(path)
    expected = {
        "format": checkpoint.FORMAT,
        "version": version,
        "family": family,
        "static": static_key(static),
    }
    for key, value in expected.items():
        if state.get(key) != value:
            raise BadCheckpoint(
                f"{path}: written with {key} {state.get(key)!r}, this engine has {key} {value!r}"
            )
    return state


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Plain JSON, atomically; a number that is not finite becomes null."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(_finite(content), indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
