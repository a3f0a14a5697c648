"""One phase of a run as the driver sees it: every trial's rows come in here, and every decision comes out.
No Ray here.

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
from pathlib import Path
from typing import Any

import yaml

from search.board import TrialBoard, write_experiment
from search.confirm import LATER, Confirmation, Later, Settings, study_name
from search.errors import BadInput, DamagedRun
from search.events import EventLog, phase_of, read_events
from search.progress import Snapshot, snapshot_of
from search.record import Recorder, restore
from search.run_directory import RunDirectory, environment, file_digest
from search.space import Space, fingerprint_of, load_space
from search.stopping import StopRules
from search.study import Asked, Study
from search.tables import column_kinds, trial_rows
from search.trials import Trial, recalled, summary_of, write_trial_config

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
UNSTOPPED = StopRules(prune=None, rules=())  # a confirmation: nothing but divergence ends a trial early


class Run:
    """A run directory that is open for searching, or with `confirm` for confirming what the search found.

    Hold its lock (`RunDirectory.locked`) while it is open.
    """

    def __init__(self, directory: RunDirectory, space: Space, confirm: Settings | None = None) -> None:
        self.directory, self.space = directory, space
        self.phase = "search" if confirm is None else "confirm"
        self.rules = space.stop if confirm is None else UNSTOPPED
        self.started = time.monotonic()
        self.stage = "starting"  # then searching, stopping, finishing
        self.interrupted = False
        self.fault: BaseException | None = None  # why the phase cannot go on
        self.news: list[str] = []
        self.session_epochs = 0
        self.first_row_at: float | None = None
        self.session_ended = 0
        self.trials: dict[int, Trial] = {}
        self.occupancy: dict[str, Any] = {
            "slots": 0,
            "busy": 0,
            "engines": [],
            "nodes": {},
            "fault": None,
        }
        self.engines_wanted = 0  # none before Ray runs
        self.heard_at: float | None = None  # when the broker last answered
        metadata = {
            "space": json.dumps(space.resolved()),
            "versions": json.dumps(json.loads(directory.environment.read_text())["versions"]),
        }
        events, warnings = read_events(directory.events) if directory.events.exists() else ([], [])
        self.events = EventLog(directory.events)
        for warning in [*warnings, *self.events.warnings, *restore(directory.path, events, metadata)]:
            logger.warning(warning)
        self.recorder = Recorder(directory.path, metadata)
        self._open_studies(events, confirm)
        self.interrupted_trials: deque[int] = deque()
        self._recall(events)
        known = any(phase_of(event) == self.phase for event in events)
        self._log({"kind": "search", "what": "resume" if known else "start"})
        self._flushed_at = time.monotonic()
        if not known:
            self._declare_hparams()

    def _open_studies(self, events: list[dict[str, Any]], confirm: Settings | None) -> None:
        """The phase's own study, and the rows of trials.parquet of the other phase, which stay as they are.

        `queue` says what comes next: in a search the study itself.
        """
        journal, space = self.directory.journal, self.space
        searched, name = Study(journal, space), study_name(space)
        confirmed = Study(journal, space, name) if confirm is not None or name in searched.names else None
        self.other_rows: list[dict[str, Any]] = []
        if confirm is not None:
            self.other_rows = trial_rows(searched, recalled(searched, events, "search"), space, "search")
            self.study = confirmed
            self.queue = Confirmation(confirmed, searched, space, confirm, self.rows, self.other_rows)
            return
        if confirmed is not None:
            self.other_rows = trial_rows(confirmed, recalled(confirmed, events, "confirm"), space, "confirm")
        self.study = self.queue = searched

    def rows(self) -> list[dict[str, Any]]:
        """The phase's rows of trials.parquet as they are now."""
        return trial_rows(self.study, self.trials, self.space, self.phase)

    @classmethod
    def create(cls, space: Space, out: Path) -> RunDirectory:
        """A new run directory for `space`, with what is needed to open and to resume it."""
        directory = RunDirectory.create(out, space.name)
        cls._write_space(directory, space.resolved())
        about = {**environment(), "fingerprint": space.fingerprint()}
        if space.data["path"] is not None:
            about["data_sha256"] = file_digest(Path(space.data["path"]))
        temporary = directory.environment.with_suffix(".tmp")
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
        os.replace(temporary, directory.environment)
        directory.journal.touch()
        return directory

    @classmethod
    def stored_space(cls, directory: RunDirectory, extra_trials: int = 0) -> Space:
        """The space that a run was started with; its data may be elsewhere by now.

        Raises DamagedRun when it is not the same any more.
        """
        try:
            space = load_space(str(directory.space), data_here=False)
        except BadInput as error:
            raise DamagedRun(f"the run's own space cannot be read any more: {error}") from error
        about = json.loads(directory.environment.read_text(encoding="utf-8"))
        # The file as it was written, too: a later version has settings that it lacks, at their defaults.
        written = yaml.safe_load(directory.space.read_text(encoding="utf-8"))
        if about.get("fingerprint") not in (space.fingerprint(), fingerprint_of(written)):
            raise DamagedRun(
                f"{directory.space}: was edited since the run began, so its trials belong to another space; "
                "restore the file, or start a new run with it"
            )
        if extra_trials:
            more = space.budget.trials + extra_trials
            space = load_space(str(directory.space), trials=more, data_here=False)
            written["budget"]["trials"] = space.budget.trials
            cls._write_space(directory, written)
        return space

    @staticmethod
    def _write_space(directory: RunDirectory, resolved: Mapping[str, Any]) -> None:
        temporary = directory.space.with_suffix(".tmp")
        temporary.write_text(
            "# The space of this run as it was resolved, every default written out.\n"
            + yaml.safe_dump(dict(resolved), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
        os.replace(temporary, directory.space)

    # ------------------------------------------------------------------ what to run

    def next_trial(self) -> Asked | Later | None:
        """The next trial: first those that an earlier driver left running, then what the queue gives.

        LATER when that depends on trials that run, None when there is none.
        """
        if self.interrupted or self.out_of_time:
            return None
        if self.interrupted_trials:
            asked = self.trials[self.interrupted_trials.popleft()].asked
        else:
            asked = self.queue.ask()
            if asked is None or asked is LATER:
                return asked
            self.trials[asked.number] = Trial(asked)
        trial = self.trials[asked.number]
        now = time.time()
        trial.started_at = trial.started_at or now
        directory = self.directory.trial(asked.number, self.phase)
        directory.mkdir(parents=True, exist_ok=True)
        write_trial_config(directory, self.space, asked)
        self._log(
            {
                "kind": "started",
                "time": now,
                "trial": asked.number,
                "params": asked.params,
                "seed": asked.seed,
                "preset": asked.preset,
                "source": asked.source,
                "engine": None,
            }
        )
        trial.board = TrialBoard(directory)
        trial.board.hparams(self._hparams(asked))
        return asked

    def job(self, asked: Asked) -> dict[str, Any]:
        """What an engine needs to train a trial, as plain values."""
        directory = self.directory.trial(asked.number, self.phase)
        return {
            "trial": asked.number,
            "seed": asked.seed,
            "epochs": self.space.budget.epochs,
            "knobs": asked.knobs,
            "static": asked.static,
            "directory": self.directory.place(directory),
            "test": self.phase == "confirm",  # a search never touches the test split
            "reported": len(self.trials[asked.number].rows),
            "resume": self.directory.has_checkpoint(directory),
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
            self._log({"kind": "retried", "trial": message["trial"], "reason": message.get("failed")})
        if "failed" in message:
            self.end(message["trial"], "FAIL", message["failed"], error=message["error"])
            return True
        if message["epoch"] > len(trial.rows):
            self._record(trial, message)
        return self._judge(trial, message)

    def _record(self, trial: Trial, message: Mapping[str, Any]) -> None:
        row = {
            "trial": message["trial"],
            "epoch": message["epoch"],
            "phase": self.phase,
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

    def _judge(self, trial: Trial, message: Mapping[str, Any]) -> bool:
        number = trial.asked.number
        verdict = self.rules.verdict(trial.rows)
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
        summary = summary_of(trial, self.space)
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
        self._log_finished(number, state, reason, error, dict(numbers))
        trial.ended = True
        self.session_ended += 1
        best = {f"best.{name}": summary.get(f"objective.{name}") for name in self.space.objectives}
        if trial.board is not None:
            status = "failure" if state == "FAIL" else "success"
            trial.board.hparams(self._hparams(trial.asked), {**best, "epochs": len(trial.rows)}, status)
        self.news.append(
            f"{self._called(trial)} {state} after {len(trial.rows)} epochs: {reason}, {self._result(summary)}"
        )
        logger.info(self.news[-1])
        if error:
            logger.error("%s failed:\n%s", self._called(trial), error)

    def _called(self, trial: Trial) -> str:
        asked = trial.asked
        if self.phase == "confirm":
            return f"confirm {asked.number} ({asked.preset or f'trial {asked.source}'}, seed {asked.seed})"
        return f"trial {asked.number} ({asked.preset})" if asked.preset else f"trial {asked.number}"

    def _result(self, summary: Mapping[str, Any]) -> str:
        name = self.space.objectives[0]
        if summary.get("objective") is None:
            return "no value"
        tested = summary.get(f"test.{name}")
        test = "" if tested is None else f", test {tested:.4f}"
        return f"{name} {summary['objective']:.4f} at epoch {summary['best_epoch']}{test}"

    # ------------------------------------------------------------------ files

    def tick(self) -> None:
        """Write what is due; call it often."""
        if self.directory.storage_fault is not None:
            self.give_up(self.directory.storage_fault)
        if time.monotonic() - self._flushed_at >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Bring the Parquet files and the pictures in TensorBoard up to date."""
        self.events.sync()
        self.recorder.flush()
        self.recorder.write_trials([*self.rows(), *self.other_rows], column_kinds(self.space))
        for number, trial in self.trials.items():
            self._embed_pictures(number, trial)
        for warning in self.recorder.warnings:
            logger.warning(warning)
        self.recorder.warnings.clear()
        self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write everything, the epochs as one file."""
        self.directory.settle()
        self.flush()
        finished = not self.work_left()
        if finished and self.phase == "confirm":
            self.queue.finish()
        for warning in self.recorder.compact():
            logger.warning(warning)
        self._log({"kind": "search", "what": "finish" if finished else "stop"})

    def _log(self, event: dict[str, Any]) -> None:
        """Append an event of this phase to the log."""
        self.events.append(event if self.phase == "search" else {**event, "phase": self.phase})

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

    def _embed_pictures(self, number: int, trial: Trial) -> None:
        """Put the pictures that an engine has written since into the trial's TensorBoard file."""
        if trial.board is None:
            return
        for path in sorted((self.directory.trial(number, self.phase) / "figures").glob("*.png")):
            if path.name not in trial.pictures:
                trial.pictures.add(path.name)
                kind, _, epoch = path.stem.partition("_epoch_")
                trial.board.picture(path, kind, int(epoch) if epoch.isdigit() else len(trial.rows))

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
        """Take up the trials that earlier drivers started: end those whose last row had already decided it,
        and queue the others that were running.
        """
        own = [event for event in events if phase_of(event) == self.phase]
        finished = {event["trial"] for event in own if event["kind"] == "finished"}
        told = {frozen.number: frozen for frozen in self.study.trials()}
        for number, trial in recalled(self.study, events, self.phase).items():
            self.trials[number] = trial
            if not trial.ended:
                self._take_up(number, trial, set(told[number].intermediate_values))
            elif number not in finished:  # the study learned of its end and the log did not
                about = told[number].user_attrs
                ended = (about.get("stop_reason"), about.get("error"), about.get("stop_numbers", {}))
                self._log_finished(number, told[number].state.name, *ended)

    def _take_up(self, number: int, trial: Trial, told: set[int]) -> None:
        trial.asked = self.study.resume(number)
        for row in trial.rows:  # rows that reached the event log and not the study
            if row["epoch"] not in told:
                self.study.report(number, row["epoch"], row[f"val.{self.space.objectives[0]}"])
        if trial.rows and self._judge(trial, {"done": False}):
            return
        self.interrupted_trials.append(number)

    def _log_finished(
        self, number: int, state: str, reason: str | None, error: str | None, numbers: Mapping[str, Any]
    ) -> None:
        about = {"state": state, "reason": reason, "error": error, "numbers": numbers}
        self._log({"kind": "finished", "trial": number, **about})

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
        """Whether `budget.minutes` have passed since this driver began: the search starts no further
        trial.
        """
        minutes = self.space.budget.minutes if self.phase == "search" else None
        return minutes is not None and time.monotonic() - self.started >= 60 * minutes

    def num_trials(self) -> int:
        """How many trials the phase has when it is complete, as far as that is known now."""
        return self.queue.num_trials()

    @property
    def continued_by(self) -> str:
        """The command that continues the phase."""
        return f"loss-search {'resume' if self.phase == 'search' else 'confirm'} {self.directory.shown}"

    def value(self, row: Mapping[str, Any]) -> float:
        """The first objective in a row."""
        return row[f"val.{self.space.objectives[0]}"]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _last_line(error: str | None) -> str | None:
    lines = [line for line in (error or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None
