"""How a run stands, read without touching it: any process may ask, whether a search works on it or not."""

from __future__ import annotations

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.confirm import FINISHED, SETTINGS, study_name
from search.errors import DamagedRun
from search.events import phase_of, read_events
from search.preflight import num_trials
from search.run_directory import RunDirectory
from search.space import Space

if TYPE_CHECKING:
    import optuna

__all__ = ["Standing", "confirmation_of", "is_worked_on", "standing_of", "study_trials"]

ENDED = ("COMPLETE", "PRUNED", "FAIL")


@dataclass(frozen=True)
class Standing:
    """`finished`: all trials have ended and the last search said so. `running`: a search works on it now.

    Neither: it can be resumed. `wanted`: how many trials there are to be. `trials` as the study has them (see
    `study_trials`), `events` of the log (of both phases) with the `warnings` of reading it.

    `confirm_trials` are those of the confirmation; `confirmed` tells that it has all that it was asked for.
    """

    finished: bool
    running: bool
    wanted: int
    trials: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    warnings: Sequence[str]
    confirm_trials: Sequence[Mapping[str, Any]] = ()
    confirmed: bool = False

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return sum(trial["state"] in ENDED for trial in self.trials)

    @property
    def word(self) -> str:
        return "running" if self.running else "finished" if self.finished else "stopped, resumable"


def standing_of(directory: RunDirectory, space: Space) -> Standing:
    """How the run of `space` in `directory` stands. Raises DamagedRun for a journal that cannot be read."""
    running = is_worked_on(directory)
    events, warnings = read_events(directory.events) if directory.events.exists() else ([], [])
    trials = study_trials(directory.journal, space)  # after the events: whatever they tell, the study knows
    if trials and not events:
        warnings = [f"{directory.events}: there is no event log", *warnings]
    wanted = num_trials(space)
    ended = sum(trial["state"] in ENDED for trial in trials)
    finished = _last_word(events, "search") == "finish" and ended >= wanted
    confirm_trials = study_trials(directory.journal, space, study_name(space))
    confirmed = _last_word(events, "confirm") == "finish"
    return Standing(finished, running, wanted, trials, events, warnings, confirm_trials, confirmed)


def _last_word(events: Sequence[Mapping[str, Any]], phase: str) -> str | None:
    """What the driver said last about a phase: start, resume, stop or finish."""
    said = [event["what"] for event in events if event["kind"] == "search" and phase_of(event) == phase]
    return said[-1] if said else None


def is_worked_on(directory: RunDirectory) -> bool:
    """Whether another process holds the run's lock. Looks for an instant only, and changes nothing."""
    if directory.stored is not None and directory.stored.reading:
        return directory.stored.is_worked_on()
    lock = directory.path / ".lock"
    if not lock.exists():
        return False
    with lock.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def study_trials(journal: Path, space: Space, name: str | None = None) -> list[dict[str, Any]]:
    """{number, state, value, params, user_attrs} of each trial of the study, by number; nothing is repaired.

    `name` of the study, by default the search's. `value` is a list for several objectives, None without a
    value. Raises DamagedRun when the journal cannot be read.
    """
    study = _study(journal, name or space.name)
    several = len(space.objectives) > 1
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": (list(trial.values) if several else trial.values[0]) if trial.values else None,
            "params": trial.params,
            "user_attrs": trial.user_attrs,
        }
        for trial in (study.get_trials(deepcopy=False) if study else ())
    ]


def confirmation_of(journal: Path, space: Space) -> tuple[dict[str, int], bool]:
    """The settings of the run's confirmation (empty when there is none), and whether it has all that they
    ask for. Raises as `study_trials`.
    """
    study = _study(journal, study_name(space))
    noted = study.user_attrs if study else {}
    return dict(noted.get(SETTINGS, {})), bool(noted.get(FINISHED))


def _study(journal: Path, name: str) -> optuna.Study | None:
    """A study as it is stored; None when its phase was ended before its first trial, or never begun."""
    import optuna

    try:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise DamagedRun(
            f"{journal}: is no journal of a study ({error}); restore a copy, or let `loss-search resume` try "
            "to repair its end"
        ) from error
