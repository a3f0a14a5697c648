"""What a confirmation trains: the search's winners and the best preset again, with seeds nobody selected on.

    candidates_of(study) ──► chosen() ──► configurations      fresh_seeds() ──► seeds, the same for each
    Confirmation: one trial a (configuration, seed), seed by seed; with `max_seeds` as many as it takes

Each is a trial of a second Optuna study in the run's journal, trained to its full budget and measured on the
test split once, at its end. What the numbers say is `search.verdict`.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from search.errors import BadInput
from search.study import Asked, Study
from search.verdict import is_clear

if TYPE_CHECKING:
    from search.space import Space

__all__ = [
    "FINISHED",
    "LATER",
    "SETTINGS",
    "Candidate",
    "Confirmation",
    "Later",
    "Settings",
    "candidates_of",
    "chosen",
    "fresh_seeds",
    "missing",
    "settings_of",
    "study_name",
]

NAME = "confirm"
SETTINGS, FINISHED = "settings", "finished"  # user attributes of the study
SEEDS = 2**31 - 1  # seeds are below this, as a space's are


class _Wait(enum.Enum):
    LATER = "what comes next depends on trials that run"


LATER = _Wait.LATER
Later = Literal[_Wait.LATER]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Settings:
    """How much is confirmed: `top` configurations and the best preset, `seeds` each, at most `max_seeds`.

    Raises BadInput for numbers that make no confirmation.
    """

    top: int = 3
    seeds: int = 5
    max_seeds: int = 0  # seeds are added, one each, up to so many, until the verdict is clear; 0: as `seeds`

    def __post_init__(self) -> None:
        for option, value, least, why in (
            ("--top", self.top, 1, "configurations"),
            ("--seeds", self.seeds, 2, "seeds, for one has no spread"),
        ):
            if not least <= value <= 1000:
                raise BadInput(f"{option} {value}: must be {least} to 1000 {why}")
        object.__setattr__(self, "max_seeds", self.max_seeds or self.seeds)
        if not self.seeds <= self.max_seeds <= 1000:
            raise BadInput(
                f"--max-seeds {self.max_seeds}: must be at least --seeds ({self.seeds}) and at most 1000"
            )

    def plain(self) -> dict[str, int]:
        """As a space's `confirm:` has it."""
        plain = {"top": self.top, "seeds": self.seeds}
        return {**plain, "max_seeds": self.max_seeds} if self.max_seeds > self.seeds else plain

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds at which the verdict is looked at."""
        return tuple(range(self.seeds, self.max_seeds + 1))


def settings_of(space: Space, stored: Mapping[str, int], given: Mapping[str, int | None]) -> Settings:
    """What the command line gave, else what this confirmation had before, else the space, else the default.

    Raises BadInput for what makes no confirmation.
    """
    explicit = {key: value for key, value in given.items() if value is not None}
    merged = {"top": Settings.top, "seeds": Settings.seeds, **space.confirm, **stored, **explicit}
    if "max_seeds" not in explicit and merged.get("max_seeds", 0) < merged["seeds"]:
        merged["max_seeds"] = 0
    elif explicit.get("max_seeds") == 0:
        raise BadInput("--max-seeds 0: must be at least --seeds")
    return Settings(**merged)


class Candidate(NamedTuple):
    """A trial of the search. `values` of its objectives at its best epoch; None without any."""

    number: int
    preset: str | None
    complete: bool
    values: tuple[float, ...] | None
    params: Mapping[str, Any]


def study_name(space: Space) -> str:
    """The confirmation's study in the journal; another name where the search's own study has taken it."""
    return NAME if space.name != NAME else f"{NAME}-2"


def candidates_of(study: Study) -> list[Candidate]:
    """The trials of a search that have ended with a value. One that was stopped has its best value."""
    found = []
    for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED):
        stopped = trial.user_attrs.get("best_value")
        values = trial.values or (None if stopped is None else [stopped])
        complete = trial.state == TrialState.COMPLETE
        if values is not None:
            preset = trial.user_attrs.get("preset")
            found.append(Candidate(trial.number, preset, complete, tuple(values), dict(trial.params)))
    return found


def chosen(candidates: Iterable[Candidate], directions: Sequence[str], top: int) -> list[Candidate]:
    """The `top` best complete trials with different configurations, and the best preset, best first.

    With several objectives only the Pareto front is taken from, by the first objective. The best preset is a
    complete one if there is any, else the best of those that were stopped; it comes last unless it is among
    the top.
    """
    sign = 1.0 if directions[0] == "maximize" else -1.0
    ranked = sorted(candidates, key=lambda one: (not one.complete, -sign * one.values[0], one.number))
    complete = [one for one in ranked if one.complete]
    best = _front(complete, directions) if len(directions) > 1 else complete
    found = _different(best)[:top]
    preset = next((one for one in ranked if one.preset), None)
    return _different([*found, *([preset] if preset else [])])


def fresh_seeds(seed: int, count: int, used: Iterable[int]) -> list[int]:
    """`count` seeds from 0 to 2^31 - 2, none in `used`; more of them begin with the same ones.

    blake2b("<seed>|confirm|<i>") mod (2^31 - 1),  i = 0, 1, ...
    """
    taken, found, index = set(used) | {seed}, [], 0
    while len(found) < count:
        digest = hashlib.blake2b(f"{seed}|confirm|{index}".encode(), digest_size=8).digest()
        drawn = int.from_bytes(digest, "little") % SEEDS
        index += 1
        if drawn not in taken:
            taken.add(drawn)
            found.append(drawn)
    return found


def missing(
    wanted: Sequence[Candidate], seeds: Sequence[int], there: Iterable[tuple[int, int]]
) -> list[tuple[Candidate, int]]:
    """The (configuration, seed) pairs that no trial (source, seed) in `there` has; the first seed first."""
    there = set(there)
    return [(one, seed) for seed in seeds for one in wanted if (one.number, seed) not in there]


class Confirmation:
    """What comes next in a confirmation; asks like a study.

    Args:
        study: the confirmation's own. searched: the search's. rows: the confirmation's rows of trials.parquet
        as they are now. searched_rows: the search's.
    """

    def __init__(
        self,
        study: Study,
        searched: Study,
        space: Space,
        settings: Settings,
        rows: Callable[[], Rows],
        searched_rows: Rows,
    ) -> None:
        self.study, self.space, self.settings = study, space, settings
        self.rows, self.searched_rows = rows, searched_rows
        self.wanted = chosen(candidates_of(searched), space.directions, settings.top)
        used = {trial.user_attrs["seed"] for trial in searched.trials() if "seed" in trial.user_attrs}
        self.seeds = fresh_seeds(space.seed, settings.max_seeds, used)
        self.count = settings.seeds  # seeds that each configuration gets, as far as is known now
        self.clear: dict[int, bool] = {}  # what the looks said, by `count`
        self._note(SETTINGS, settings.plain())
        if self._missing() or self._is_running():
            self._note(FINISHED, False)

    def ask(self) -> Asked | Later | None:
        """The next trial, None when there is none, LATER when trials that run will decide it."""
        if self.study.trials(TrialState.WAITING):
            return self.study.ask_for({})  # queued by a driver that died at once
        left = self._missing()
        if left:
            one, seed = left[0]
            return self.study.ask_for(one.params, source=one.number, preset=one.preset, seed=seed)
        return LATER if self._is_running() and self.count < self.settings.max_seeds else None

    def num_trials(self) -> int:
        """Those that there are, and those that are missing."""
        return len(self.study.trials()) + len(self._missing())

    def finish(self) -> None:
        """Note that everything wanted has ended, so that the verdict counts."""
        self._note(FINISHED, True)

    def _note(self, name: str, value: Any) -> None:
        if self.study.optuna.user_attrs.get(name) != value:
            self.study.optuna.set_user_attr(name, value)

    def _missing(self) -> list[tuple[Candidate, int]]:
        """What is to be trained; when that is nothing, and the verdict not clear, the next seed of each."""
        there = [_place(trial) for trial in self.study.trials()]
        left = missing(self.wanted, self.seeds[: self.count], there)
        while not left and not self._is_running() and self.count < self.settings.max_seeds:
            if self._is_clear():
                break
            self.count += 1
            left = missing(self.wanted, self.seeds[: self.count], there)
        return left

    def _is_running(self) -> bool:
        return bool(self.study.trials(TrialState.RUNNING, TrialState.WAITING))

    def _is_clear(self) -> bool:
        """Whether the verdict with the first `count` seeds stands; the later looks are reckoned with."""
        if self.count not in self.clear:
            seeds = set(self.seeds[: self.count])
            rows = [row for row in self.rows() if row["seed"] in seeds]
            looks = self.settings.looks
            self.clear[self.count] = is_clear(self.searched_rows, rows, self.space, looks)
        return self.clear[self.count]


def _place(trial: FrozenTrial) -> tuple[int, int]:
    return trial.user_attrs["source"], trial.user_attrs["seed"]


def _different(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first of each configuration."""
    found: dict[tuple, Candidate] = {}
    for one in candidates:
        found.setdefault(tuple(sorted(one.params.items())), one)
    return list(found.values())


def _front(candidates: Sequence[Candidate], directions: Sequence[str]) -> list[Candidate]:
    """Those that no other is at least as good as in every objective and better than in one."""
    signs = np.array([1.0 if way == "maximize" else -1.0 for way in directions])
    values = np.array([one.values for one in candidates]).reshape(-1, len(signs)) * signs
    beaten = [bool(((values >= own).all(1) & (values > own).any(1)).any()) for own in values]
    return [one for one, worse in zip(candidates, beaten, strict=True) if not worse]
