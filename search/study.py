"""The study: Optuna decides what to try and keeps every trial's parameters, values, state and reason.

The journal file is the truth of a run. One driver writes it, others (optuna-dashboard, `report`) may read
it at any time. A journal that a crash left with a torn last line is repaired before the first append, since
Optuna's next append would make such a file unreadable for good.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.errors import DamagedRun

if TYPE_CHECKING:
    from search.space import Space

__all__ = ["Asked", "Study", "repair_journal"]

logger = logging.getLogger("loss_search.study")
optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()

STARTUP_TRIALS = 10  # drawn at random before TPE trusts its model (Optuna's default), presets counted in


@dataclass(frozen=True)
class Asked:
    """One trial to run: its number, every static setting and knob, and where it came from."""

    number: int
    params: dict[str, Any]  # what the study varies and is in force
    static: dict[str, Any]
    knobs: dict[str, Any]
    seed: int
    preset: str | None
    source: int | None = None  # of a confirmation: the search's trial that it repeats


class Study:
    """One phase's Optuna study in a journal file.

    Args:
        path: the journal; made when missing, repaired when its tail is torn.
        space: what is searched. Its presets are queued first.
        name: of another study than the search's: it has no presets, its trials are named by `ask_for`, and
        none is pruned.
    """

    def __init__(self, path: Path, space: Space, name: str | None = None) -> None:
        self.space, self.path = space, path
        repair_journal(path)
        self.storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        self.optuna = optuna.create_study(
            storage=self.storage,
            study_name=name or space.name,
            directions=list(space.directions),
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner() if name else _pruner(space),
        )
        num_trials = len(self.optuna.get_trials(deepcopy=False))
        self.optuna.sampler = _sampler(space, num_trials)
        self.live: dict[int, optuna.Trial] = {}
        if num_trials == 0:
            self.optuna.set_user_attr("family", space.family_name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.optuna.set_metric_names(list(space.objectives))
        if name is None:
            self._queue_presets()

    @property
    def names(self) -> list[str]:
        """Every study of the journal."""
        return optuna.get_all_study_names(self.storage)

    # ------------------------------------------------------------------ ask

    def _queue_presets(self) -> None:
        """Queue the presets that the study lacks and the budget has room for, also after it grew."""
        trials = self.trials()
        known = {trial.user_attrs.get("preset") for trial in trials}
        missing = [preset for preset in self.space.presets if preset.name not in known]
        room = (
            len(missing) if self.space.sampler == "grid" else max(0, self.space.budget.trials - len(trials))
        )
        for preset in missing[:room]:
            values = self.space.preset_values(preset)
            self.optuna.enqueue_trial(values, user_attrs={"preset": preset.name})

    def ask(self) -> Asked | None:
        """The next trial to run, or None when the budget of trials (of a grid: its cells) is spent."""
        started = self.trials(TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        waiting = bool(self.trials(TrialState.WAITING))
        if self.space.sampler == "grid":
            if not waiting and not self._enqueue_cell(started):
                return None
        elif len(started) >= self.space.budget.trials:
            return None
        return self._asked(self.optuna.ask())

    def ask_for(self, params: Mapping[str, Any], **attributes: Any) -> Asked:
        """A trial with these parameters and user attributes.

        One that a driver queued just before it died comes first.
        """
        if not self.trials(TrialState.WAITING):
            self.optuna.enqueue_trial(dict(params), user_attrs=attributes)
        return self._asked(self.optuna.ask())

    def resume(self, number: int) -> Asked:
        """A trial that was running when the driver died, with the parameters that it had."""
        frozen = self.optuna.get_trials(deepcopy=False)[number]
        return self._asked(optuna.Trial(self.optuna, frozen._trial_id))

    def asked_of(self, trial: FrozenTrial) -> Asked:
        """What a trial was asked to be. One whose driver died while it was drawn may lack parameters."""
        everything = self.space.complete(trial.params)
        attributes = trial.user_attrs
        return Asked(
            trial.number,
            dict(trial.params),
            {name: everything[name] for name in self.space.static},
            {name: everything[name] for name in self.space.knobs},
            attributes.get("seed", self.space.seed),
            attributes.get("preset"),
            attributes.get("source"),
        )

    def _asked(self, trial: optuna.Trial) -> Asked:
        values: dict[str, Any] = {}
        for name, parameter in self.space.searched().items():
            if self.space.in_force(name, values):
                values[name] = _suggest(trial, parameter)
        self.live[trial.number] = trial
        if "seed" not in trial.user_attrs:
            trial.set_user_attr("seed", self.space.seed)
        return self.asked_of(self.optuna.get_trials(deepcopy=False)[trial.number])

    def num_trials(self) -> int:
        """How many trials the search has when it is complete: its budget's, or a grid's cells."""
        return int(self.space.num_cells()) if self.space.sampler == "grid" else self.space.budget.trials

    def _enqueue_cell(self, started: Sequence[FrozenTrial]) -> bool:
        """Queue the first cell of the grid that no trial has had; False when there is none left."""
        taken = {trial.user_attrs["cell"] for trial in started if "cell" in trial.user_attrs}
        for index, cell in enumerate(self.space.cells()):
            if index not in taken:
                self.optuna.enqueue_trial(cell, user_attrs={"cell": index})
                return True
        return False

    # ------------------------------------------------------------------ tell

    def report(self, number: int, epoch: int, value: float) -> None:
        """Store the objective after `epoch`.

        Does nothing for several objectives, which Optuna does not prune.
        """
        if len(self.space.objectives) == 1 and math.isfinite(value):
            with warnings.catch_warnings():
                # A row whose report was acknowledged just before a crash is reported again: the first one
                # stands.
                warnings.filterwarnings(
                    "ignore", message="The reported value is ignored", category=UserWarning
                )
                self.live[number].report(value, epoch)

    def should_prune(self, number: int) -> bool:
        """Whether the pruner would stop this trial now.

        Presets run to their end: the search has to beat them.
        """
        if len(self.space.objectives) > 1 or self.live[number].user_attrs.get("preset"):
            return False
        return self.live[number].should_prune()

    def note(self, number: int, **attributes: Any) -> None:
        """Store user attributes of a running trial."""
        for name, value in attributes.items():
            self.live[number].set_user_attr(name, value)

    def tell(
        self, number: int, state: str, values: Sequence[float] | None, reason: str, **attributes: Any
    ) -> None:
        """End a trial: state COMPLETE (with values), PRUNED or FAIL, its stop reason, and further attributes.

        Attributes are stored first, so that a finished trial always has its reason.
        """
        self.note(number, stop_reason=reason, **attributes)
        trial_state = TrialState[state]
        told = list(values) if trial_state == TrialState.COMPLETE else None
        self.optuna.tell(self.live.pop(number), told, state=trial_state)

    # ------------------------------------------------------------------ read

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials in these states (all when none is named), by number."""
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    def best(self) -> FrozenTrial | None:
        """The complete trial with the best first objective, or None."""
        complete = self.trials(TrialState.COMPLETE)
        sign = 1 if self.space.directions[0] == "maximize" else -1
        return max(complete, key=lambda trial: sign * trial.values[0], default=None)


def _suggest(trial: optuna.Trial, parameter: Any) -> Any:
    if parameter.kind == "choice":
        return trial.suggest_categorical(parameter.name, list(parameter.choices))
    if parameter.kind == "int":
        return trial.suggest_int(parameter.name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)


def _sampler(space: Space, num_trials: int) -> optuna.samplers.BaseSampler:
    """The space's sampler, seeded by the search's seed and by how many trials there are.

    A resumed study must not draw its first configurations again.
    """
    digest = hashlib.blake2b(f"{space.seed}|sampler|{num_trials}".encode(), digest_size=4).digest()
    seed = int.from_bytes(digest, "little")
    if space.sampler == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
            )
    if space.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if space.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)  # random, and grid, whose cells are queued


def _pruner(space: Space) -> optuna.pruners.BasePruner:
    prune = space.stop.prune
    if prune is None or prune["rule"] == "none" or len(space.objectives) > 1:
        return optuna.pruners.NopPruner()
    if prune["rule"] == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=prune["min_epochs"])
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=prune["min_epochs"], reduction_factor=prune["reduction"]
    )


def repair_journal(path: Path) -> int:
    """Cut a torn tail off a journal, keeping a copy beside it; returns the number of bytes cut.

    Raises DamagedRun when a line before the last is not a journal record: that is no torn tail.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    good = 0
    while good < len(content):
        end = content.find(b"\n", good)
        line = content[good:] if end < 0 else content[good:end]
        if end < 0 or not _is_record(line):
            break
        good = end + 1
    tail = content[good:]
    if not tail:
        return 0
    after_first_bad = tail.partition(b"\n")[2].replace(b"\0", b"").strip()
    if after_first_bad:
        line_number = content[:good].count(b"\n") + 1
        raise DamagedRun(
            f"{path}:{line_number}: not a journal record, and more records follow it; restore a copy"
        )
    shutil.copy2(path, path.with_name(f"{path.name}.torn-{good}"))
    with path.open("r+b") as file:
        file.truncate(good)
        os.fsync(file.fileno())
    logger.warning("%s: cut %d bytes of a torn last record (a copy is beside it)", path, len(tail))
    return len(tail)


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, Mapping) and isinstance(record.get("op_code"), int)
