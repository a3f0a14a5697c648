"""One run as the driver sees it: every trial's rows come in here, and every decision comes out. No Ray here.

What arrives is made durable before anything acts on it, in this order: event log, study, buffers for
Parquet and TensorBoard. So whatever the moment at which the process is killed, `resume` finds each row that
was answered.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from search.board import TrialBoard, write_experiment
from search.errors import BadInput, DamagedRun
from search.events import EventLog, read_events
from search.progress import Snapshot, snapshot_of
from search.record import Recorder, restore, rows_from_events, summarise
from search.run_directory import RunDirectory, environment
from search.space import Space, load_space
from search.study import Asked, Study
from search.tables import column_kinds, trial_rows

__all__ = ["Run"]

logger = logging.getLogger("loss_search.run")

FLUSH_S = 3.0  # how far the Parquet files may lag behind; the event log does not
COMPLETED = "completed"  # the stop reason of a trial that had its whole budget
HARMLESS_AT_THE_END = {"plateau", "target", "time"}  # rules that cut nothing off a trial at its last epoch
FULL_RESULT = {
    COMPLETED,
    "plateau",
    "target_reached",
}  # reasons with which a trial's best value is its result


@dataclass
class _Trial:
    """A trial of this session."""

    asked: Asked
    rows: list[dict[str, Any]] = field(default_factory=list)
    board: TrialBoard | None = None
    started_at: float | None = None
    retries: int = 0
    engine: str | None = None
    ended: bool = False
    pictures: set[str] = field(default_factory=set)


class Run:
    """A run directory that is open for searching. Hold its lock (`RunDirectory.locked`) while it is open."""

    def __init__(self, directory: RunDirectory, space: Space) -> None:
        self.directory, self.space = directory, space
        self.started = time.monotonic()
        self.phase = "starting"
        self.interrupted = False
        self.fault: BaseException | None = None  # why the search cannot go on
        self.news: list[str] = []
        self.session_epochs = 0
        self.first_row_at: float | None = None
        self.session_ended = 0
        self.trials: dict[int, _Trial] = {}
        self.occupancy: dict[str, Any] = {"slots": 0, "busy": 0, "engines": [], "fault": None}
        metadata = {
            "space": json.dumps(space.resolved()),
            "versions": json.dumps(json.loads(directory.environment.read_text())["versions"]),
        }
        events, warnings = read_events(directory.events) if directory.events.exists() else ([], [])
        self.events = EventLog(directory.events)
        for warning in [*warnings, *self.events.warnings, *restore(directory.path, events, metadata)]:
            logger.warning(warning)
        self.recorder = Recorder(directory.path, metadata)
        self.study = Study(directory.journal, space)
        self.interrupted_trials: deque[int] = deque()
        self._recall(events)
        self.events.append({"kind": "search", "what": "resume" if events else "start"})
        self._flushed_at = time.monotonic()
        if not events:
            self._declare_hparams()

    @classmethod
    def create(cls, space: Space, out: Path) -> RunDirectory:
        """A new run directory for `space`, with what is needed to open and to resume it."""
        directory = RunDirectory.create(out, space.name)
        cls._write_space(directory, space)
        about = {**environment(), "fingerprint": space.fingerprint()}
        temporary = directory.environment.with_suffix(".tmp")
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
        os.replace(temporary, directory.environment)
        directory.journal.touch()
        return directory

    @classmethod
    def stored_space(cls, directory: RunDirectory, extra_trials: int = 0) -> Space:
        """The space that a run was started with. Raises DamagedRun when it is not the same any more."""
        try:
            space = load_space(str(directory.space))
        except BadInput as error:
            raise DamagedRun(f"the run's own space cannot be read any more: {error}") from error
        about = json.loads(directory.environment.read_text(encoding="utf-8"))
        if about.get("fingerprint") != space.fingerprint():
            raise DamagedRun(
                f"{directory.space}: was edited since the run began, so its trials belong to another space; "
                "restore the file, or start a new run with it"
            )
        if extra_trials:
            space = load_space(str(directory.space), trials=space.budget.trials + extra_trials)
            cls._write_space(directory, space)
        return space

    @staticmethod
    def _write_space(directory: RunDirectory, space: Space) -> None:
        temporary = directory.space.with_suffix(".tmp")
        temporary.write_text(
            "# The space of this run as it was resolved, every default written out.\n"
            + yaml.safe_dump(space.resolved(), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
        os.replace(temporary, directory.space)

    # ------------------------------------------------------------------ what to run

    def next_trial(self) -> Asked | None:
        """The next trial: first those that an earlier driver left running, then what the study asks for."""
        asked = None
        if not self.interrupted and not self.out_of_time:
            if self.interrupted_trials:
                asked = self.trials[self.interrupted_trials.popleft()].asked
            elif (asked := self.study.ask()) is not None:
                self.trials[asked.number] = _Trial(asked)
        if asked is None:
            return None
        trial = self.trials[asked.number]
        trial.started_at = trial.started_at or time.time()
        directory = self.directory.trial(asked.number)
        directory.mkdir(exist_ok=True)
        self._write_config(directory, asked)
        self.events.append(
            {
                "kind": "started",
                "trial": asked.number,
                "params": asked.params,
                "seed": asked.seed,
                "preset": asked.preset,
                "engine": None,
            }
        )
        trial.board = TrialBoard(directory)
        trial.board.hparams(self._hparams(asked))
        return asked

    def job(self, asked: Asked) -> dict[str, Any]:
        """What an engine needs to train a trial, as plain values."""
        reported = len(self.trials[asked.number].rows)
        return {
            "trial": asked.number,
            "seed": asked.seed,
            "epochs": self.space.budget.epochs,
            "knobs": asked.knobs,
            "static": asked.static,
            "directory": str(self.directory.trial(asked.number)),
            "reported": reported,
            "resume": (self.directory.trial(asked.number) / "last.pt").exists(),
        }

    # ------------------------------------------------------------------ what comes in

    def receive(self, message: Mapping[str, Any]) -> bool:
        """Take one message of an engine about one trial; returns whether the trial ends with it.

        A message is a report (`trainables.trial_files.report_as_dict`, with `engine` and `slot`), or says
        that the trial failed (`failed`: the reason, `error`: the traceback).
        """
        trial = self.trials[message["trial"]]
        # "closed": the search is being stopped; the trial stays as it is, to be continued.
        if trial.ended or "closed" in message:
            return True
        if message.get("retries", 0) > trial.retries:
            trial.retries = message["retries"]
            self.events.append(
                {"kind": "retried", "trial": message["trial"], "reason": message.get("failed")}
            )
        if "failed" in message:
            self.end(message["trial"], "FAIL", message["failed"], error=message["error"])
            return True
        if message["epoch"] > len(trial.rows):
            self._record(trial, message)
        return self._judge(trial, message)

    def _record(self, trial: _Trial, message: Mapping[str, Any]) -> None:
        row = {
            "trial": message["trial"],
            "epoch": message["epoch"],
            "engine": message["engine"],
            "slot": message["slot"],
            "diverged": float(message["diverged"]),
            **message["row"],
            "vectors": message["vectors"],
        }
        self.events.append({"kind": "reported", "row": row})
        trial.rows.append(row)
        trial.engine = message["engine"]
        self.session_epochs += 1
        self.first_row_at = self.first_row_at or time.monotonic()
        self.study.report(message["trial"], message["epoch"], row[f"val.{self.space.objectives[0]}"])
        if self.recorder.add(row):
            trial.board.row(row)

    def _judge(self, trial: _Trial, message: Mapping[str, Any]) -> bool:
        number = trial.asked.number
        verdict = self.space.stop.verdict(trial.rows)
        spent = message["done"] or len(trial.rows) >= self.space.budget.epochs
        if verdict is not None and not (spent and verdict.rule in HARMLESS_AT_THE_END):
            full = all(
                part in FULL_RESULT for part in verdict.reason.removeprefix("all(").rstrip(")").split("+")
            )
            self.end(number, "COMPLETE" if full else "PRUNED", verdict.reason, numbers=verdict.numbers)
        elif spent:
            self.end(number, "COMPLETE", COMPLETED)
        elif self.study.should_prune(number):
            rule = self.space.stop.prune["rule"]
            self.end(
                number,
                "PRUNED",
                rule,
                numbers={"epoch": len(trial.rows), "value": self.value(trial.rows[-1])},
            )
        return trial.ended

    def end(
        self,
        number: int,
        state: str,
        reason: str,
        *,
        error: str | None = None,
        numbers: Mapping[str, Any] | None = None,
    ) -> None:
        """A trial has ended: tell the study, the log and TensorBoard why."""
        trial = self.trials[number]
        summary = self.summary(trial)
        values = [summary[f"objective.{name}"] for name in self.space.objectives] if trial.rows else [None]
        if state == "COMPLETE" and any(value is None for value in values):
            state, reason = "FAIL", "no_finite_objective"
        numbers = {key: value for key, value in (numbers or {}).items() if not _is_nan(value)}
        self.study.tell(
            number,
            state,
            values if state == "COMPLETE" else None,
            reason,
            stop_numbers=numbers,
            best_epoch=summary.get("best_epoch"),
            best_value=summary.get("objective"),
            epochs=len(trial.rows),
            retries=trial.retries,
            engine=trial.engine,
            error=_last_line(error),
            started_at=trial.started_at,
            finished_at=time.time(),
        )
        self.events.append(
            {
                "kind": "finished",
                "trial": number,
                "state": state,
                "reason": reason,
                "error": error,
                "numbers": dict(numbers),
            }
        )
        trial.ended = True
        self.session_ended += 1
        best = {f"best.{name}": summary.get(f"objective.{name}") for name in self.space.objectives}
        if trial.board is not None:
            status = "failure" if state == "FAIL" else "success"
            trial.board.hparams(self._hparams(trial.asked), {**best, "epochs": len(trial.rows)}, status)
        value = summary.get("objective")
        shown = (
            "no value"
            if value is None
            else f"{self.space.objectives[0]} {value:.4f} at epoch {summary['best_epoch']}"
        )
        name = f" ({trial.asked.preset})" if trial.asked.preset else ""
        self.news.append(f"trial {number}{name} {state} after {len(trial.rows)} epochs: {reason}, {shown}")
        logger.info(self.news[-1])
        if error:
            logger.error("trial %d failed:\n%s", number, error)

    # ------------------------------------------------------------------ files

    def tick(self) -> None:
        """Write what is due; call it often."""
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Bring the Parquet files and the pictures in TensorBoard up to date."""
        self.events.sync()
        self.recorder.flush()
        self.recorder.write_trials(trial_rows(self), column_kinds(self))
        for number, trial in self.trials.items():
            self._embed_pictures(number, trial)
        for warning in self.recorder.warnings:
            logger.warning(warning)
        self.recorder.warnings.clear()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write everything, the epochs as one file."""
        self.flush()
        finished = not self.work_left()
        for warning in self.recorder.compact():
            logger.warning(warning)
        self.events.append({"kind": "search", "what": "finish" if finished else "stop"})

    def give_up(self, fault: BaseException) -> None:
        """The search cannot go on: stop it, and remember the first reason."""
        self.interrupted = True
        self.fault = self.fault or fault

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the files, without writing: a full disk has to end too."""
        for trial in self.trials.values():
            if trial.board is not None:
                trial.board.close()
        self.events.close()

    def _embed_pictures(self, number: int, trial: _Trial) -> None:
        """Put the pictures that an engine has written since into the trial's TensorBoard file."""
        if trial.board is None:
            return
        for path in sorted((self.directory.trial(number) / "figures").glob("*.png")):
            if path.name not in trial.pictures:
                trial.pictures.add(path.name)
                kind, _, epoch = path.stem.partition("_epoch_")
                trial.board.picture(path, kind, int(epoch) if epoch.isdigit() else len(trial.rows))

    def _write_config(self, directory: Path, asked: Asked) -> None:
        """`config.yaml`: the trial as `loss-search train --config` takes it."""
        content = self.config(asked.static, asked.knobs, asked.seed, f"trial {asked.number}")
        temporary = directory / ".config.yaml.tmp"
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        os.replace(temporary, directory / "config.yaml")

    def config(self, static: Mapping, knobs: Mapping, seed: int, source: str) -> dict[str, Any]:
        """One configuration with everything that training it needs, as plain values."""
        return {
            "family": self.space.family_name,
            "source": source,
            "objective": self.space.objectives[0],
            "data": dict(self.space.data),
            "epochs": self.space.budget.epochs,
            "seed": seed,
            "static": dict(static),
            "knobs": dict(knobs),
        }

    def _hparams(self, asked: Asked) -> dict[str, Any]:
        return {name: asked.params.get(name) for name in self.space.searched()}

    def _declare_hparams(self) -> None:
        domains: dict[str, Any] = {}
        for name, parameter in self.space.searched().items():
            domains[name] = (
                list(parameter.choices) if parameter.kind == "choice" else (parameter.low, parameter.high)
            )
        metrics = [
            f"best/{name}" for name in self.space.objectives
        ]  # tags: the board writes `best.x` as best/x
        write_experiment(self.directory.trials, domains, [*metrics, "epochs"])

    # ------------------------------------------------------------------ resume

    def _recall(self, events: list[dict[str, Any]]) -> None:
        """Rebuild trials from the study and the event log, end those whose last row had already decided it,
        and
        queue the others that were running."""
        rows: dict[int, list[dict[str, Any]]] = {}
        for row in rows_from_events(events):
            rows.setdefault(row["trial"], []).append(dict(row))
        first_start: dict[int, float] = {}
        for event in events:
            if event["kind"] == "started":
                first_start.setdefault(event["trial"], event["time"])
        finished = {event["trial"] for event in events if event["kind"] == "finished"}
        for frozen in self.study.trials():
            if frozen.state.name == "WAITING":
                continue
            running = frozen.state.name == "RUNNING"
            trial = _Trial(self.study.resume(frozen.number))
            trial.rows = sorted(rows.get(frozen.number, []), key=lambda row: row["epoch"])
            trial.started_at = first_start.get(frozen.number)
            trial.engine = trial.rows[-1]["engine"] if trial.rows else None
            trial.ended = not running
            self.trials[frozen.number] = trial
            if running:
                self._take_up(frozen.number, trial, set(frozen.intermediate_values))
            elif frozen.number not in finished:
                self.study.live.pop(frozen.number, None)
                self._log_finished(frozen)
            else:
                self.study.live.pop(frozen.number, None)

    def _take_up(self, number: int, trial: _Trial, told: set[int]) -> None:
        for row in trial.rows:  # rows that reached the event log and not the study
            if row["epoch"] not in told:
                self.study.report(number, row["epoch"], row[f"val.{self.space.objectives[0]}"])
        if trial.rows and self._judge(trial, {"done": False}):
            return
        self.interrupted_trials.append(number)

    def _log_finished(self, frozen: Any) -> None:
        """The study learned of a trial's end and the event log did not: the driver died in between."""
        self.events.append(
            {
                "kind": "finished",
                "trial": frozen.number,
                "state": frozen.state.name,
                "reason": frozen.user_attrs.get("stop_reason"),
                "error": frozen.user_attrs.get("error"),
                "numbers": frozen.user_attrs.get("stop_numbers", {}),
            }
        )

    # ------------------------------------------------------------------ figures for display

    def snapshot(self) -> Snapshot:
        """Where the search stands now; `news` is handed out once."""
        return snapshot_of(self)

    def work_left(self) -> bool:
        """Whether a trial still has to be started, continued or ended."""
        ended = sum(frozen.state.is_finished() for frozen in self.study.trials())
        running = any(not trial.ended for trial in self.trials.values())
        return running or (ended < self.num_trials() and not self.out_of_time)

    @property
    def out_of_time(self) -> bool:
        """Whether `budget.minutes` have passed since this driver began: no further trial starts."""
        minutes = self.space.budget.minutes
        return minutes is not None and time.monotonic() - self.started >= 60 * minutes

    def num_trials(self) -> int:
        """How many trials the search has when it is complete."""
        return self.space.num_cells() if self.space.sampler == "grid" else self.space.budget.trials

    def summary(self, trial: _Trial) -> dict[str, Any]:
        """What a row of trials.parquet says of a trial's epochs; empty before the first."""
        if not trial.rows:
            return {}
        minimise = [
            n for n, d in zip(self.space.objectives, self.space.directions, strict=True) if d == "minimize"
        ]
        return summarise(trial.rows, self.space.objectives, minimise)

    def value(self, row: Mapping[str, Any]) -> float:
        """The first objective in a row."""
        return row[f"val.{self.space.objectives[0]}"]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _last_line(error: str | None) -> str | None:
    lines = [line for line in (error or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None
