"""`loss-search train`: one model with its full budget, in this process and without Ray.

What is left behind is a trial's directory with two files more:

    model.pt  config.yaml  metrics.json  figures/*.png  facts/best.json  run.log

The numbers are those that the configuration has in a search with one slot: same seed, thread and engine.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.configuration import Configuration, load_configuration, write_configuration
from search.console import duration, number, shown_path
from search.errors import BadData, BadInput, Incomplete, RunFailed
from search.run_directory import version
from trainables.errors import BadData as BadDataValue

if TYPE_CHECKING:
    from trainables.engine import Engine
    from trainables.family import Data, Family
    from trainables.member import Member, Report
    from trainables.trial_files import TrialFiles

__all__ = ["train"]

SAVE_EVERY_S = 5.0  # as in a search
SHOWN_METRICS = 3  # of the validation metrics, beside the losses, in a progress line
SLOT = 0

Say = Callable[[object], None]


def train(configuration: Configuration, directory: Path, say: Say) -> None:
    """Train `configuration` into `directory`, which is made, or continued after an interrupted call.

    Args:
        say: takes the progress, a line at a time.

    Raises:
        BadInput: `directory` holds something else. BadData: the data cannot be used.
        RunFailed: a loss or gradient was not finite.
        Incomplete: Ctrl-C; the same call continues.
    """
    family = configuration.family
    data = _data(configuration, family)
    engine, member_state = _engine(configuration, data), None
    if (directory / "last.pt").exists():
        member_state = _interrupted(configuration, directory)
    elif directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadInput(f"{directory}: exists and is not empty; give another --out")
    from trainables.trial_files import TrialFiles

    _make(directory)
    write_configuration(
        configuration, directory / "config.yaml", "The configuration of model.pt beside this file."
    )
    files = TrialFiles(directory, version())
    sizes = ", ".join(f"{data.size(split):,} {split}" for split in data.splits)
    what = f"{configuration.epochs} epochs, seed {configuration.seed}"
    say(f"{family.name} ({configuration.source}), {what}: {sizes}")
    for warning in data.warnings:
        say(f"warning: {warning}")
    with _spoken(say):
        _admit(engine, configuration, directory, member_state)
        if member_state is not None:
            say(f"continues after epoch {member_state['epoch']}")
        _epochs(engine, files, say)
        files.finish(engine, SLOT)
    _require_a_model(engine.members[SLOT], directory)
    _finish(engine, configuration, directory, say)


def _data(configuration: Configuration, family: Family) -> Data:
    try:
        return family.load(configuration.data)
    except BadDataValue as error:
        raise BadData(str(error)) from error


def _engine(configuration: Configuration, data: Data) -> Engine:
    import torch

    from trainables.engine import Engine

    torch.set_num_threads(1)  # as an engine of a search has: another number rounds sums otherwise
    family = configuration.family
    return Engine(
        family,
        data,
        configuration.static,
        1,
        device="cuda" if torch.cuda.is_available() else "cpu",
        objective=configuration.objective,
        maximise=family.metrics[configuration.objective].higher_is_better is not False,
    )


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {directory}: cannot be made ({error.strerror})") from error


def _interrupted(configuration: Configuration, directory: Path) -> dict[str, Any]:
    """The state that an interrupted call of the same configuration left."""
    from trainables.trial_files import read_last

    stored = load_configuration(directory / "config.yaml", configuration.family_name)
    if stored != configuration:
        raise BadInput(
            f"{directory}: holds an interrupted training of another configuration ({stored.source}, "
            f"{stored.epochs} epochs, seed {stored.seed}); give another --out"
        )
    return read_last(
        directory, family=configuration.family.name, static=configuration.static, version=version()
    )


def _admit(
    engine: Engine, configuration: Configuration, directory: Path, state: Mapping[str, Any] | None
) -> None:
    from trainables.member import Job

    job = Job(0, configuration.seed, configuration.epochs, configuration.knobs, directory)
    engine.admit(job, SLOT, state)


def _epochs(engine: Engine, files: TrialFiles, say: Say) -> None:
    """Train until the budget is spent or the model diverged. Raises Incomplete after Ctrl-C."""
    member, started = engine.members[SLOT], time.monotonic()
    if member.epoch == 0:
        files.save_last(engine, SLOT, None)  # so that the directory can be continued from the first moment on
    saved_at, done = started, member.epoch >= member.job.epochs
    with _stop_signal() as stopped:
        while not done:
            [report] = engine.run_epoch()
            done = report.done
            say(_progress(engine, report, time.monotonic() - started))
            if not done and (stopped.is_set() or time.monotonic() - saved_at >= SAVE_EVERY_S):
                files.save_last(engine, SLOT, report)
                saved_at = time.monotonic()
            if not done and stopped.is_set():
                raise Incomplete(
                    f"stopped after epoch {member.epoch} of {member.job.epochs}; the same command with "
                    f"--out {shown_path(files.directory)} continues there"
                )


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets, so that the epoch is finished; the second one ends it at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(signal_number: int, frame: object) -> None:
        event.set()
        signal.signal(signal_number, before[signal_number])

    before = {wanted: signal.signal(wanted, handle) for wanted in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for wanted, handler in before.items():
            signal.signal(wanted, handler)


def _require_a_model(member: Member, directory: Path) -> None:
    if member.diverged:
        raise RunFailed(
            f"{shown_path(directory)}: a loss or gradient was not finite in epoch {member.epoch}; try a "
            "lower optim.lr or optim.clip, or another --seed"
        )
    if member.best_row is None:
        raise RunFailed(
            f"{shown_path(directory)}: no epoch had a finite validation metric, so there is no model"
        )


def _progress(engine: Engine, report: Report, elapsed_s: float) -> str:
    total = engine.members[SLOT].job.epochs
    names = [f"val.{engine.objective}", *(f"val.{name}" for name in engine.family.metrics)]
    shown = [*dict.fromkeys(names)][:SHOWN_METRICS]
    numbers = "  ".join(f"{name} {number(report.row[name])}" for name in ["train.loss", "val.loss", *shown])
    return f"epoch {report.epoch:>{len(str(total))}}/{total}  {numbers}  {duration(elapsed_s)}"


@contextmanager
def _spoken(say: Say) -> Iterator[None]:
    """Pass on the `[VISUALIZATION] Saved: ...` lines that `TrialFiles` logs."""
    logger = logging.getLogger("loss_search.trial")

    class Speaker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("[VISUALIZATION]"):
                say(record.getMessage())

    speaker, level = Speaker(), logger.level
    logger.addHandler(speaker)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(speaker)
        logger.setLevel(level)


def _finish(engine: Engine, configuration: Configuration, directory: Path, say: Say) -> None:
    """`metrics.json` of the best epoch's model, and the table of both splits."""
    from trainables.trial_files import write_json

    member = engine.members[SLOT]
    engine.stack.write_row(SLOT, engine.stack.as_state(member.best_row))
    found = {split: _measure(engine, split) for split in ("val", "test")}
    content = {
        "family": configuration.family_name,
        "source": configuration.source,
        "seed": configuration.seed,
        "epochs": member.epoch,
        "best_epoch": member.best_epoch,
        "objective": engine.objective,
        "chance": engine.family.chance(engine.data.facts, engine.static),
        "examples": {split: engine.data.size(split) for split in engine.data.splits},
        **found,
    }
    write_json(directory / "metrics.json", content)
    say("")
    guessing = f"selection_accuracy of guessing {number(content['chance'])}"
    say(f"best epoch {member.best_epoch} of {member.epoch}; {guessing}")
    width = max(map(len, found["val"]))
    say(f"{'':{width}}  {'validation':>10}  {'test':>10}")
    for name, value in found["val"].items():
        say(f"{name:{width}}  {number(value):>10}  {number(found['test'][name]):>10}")
    kinds = [kind for kind, shows in engine.family.collapsed(found["val"]).items() if shows]
    if kinds:
        say(f"warning: this model has collapsed ({', '.join(kinds)})")
    say("")
    say(f"model, metrics and figures are in {shown_path(directory)}")


def _measure(engine: Engine, split: str) -> dict[str, float]:
    """The terms (unweighted) and the metrics of the model in the slot, on a whole split."""
    values, _, examined = engine.evaluate(split)
    scalars = engine.family.measure(
        {name: t[SLOT] for name, t in examined.items()}, engine.data.facts
    ).scalars
    return {**dict(zip(engine.family.terms, values[SLOT].tolist(), strict=True)), **scalars}
