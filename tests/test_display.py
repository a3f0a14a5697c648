"""A search while it runs: the live table on a real pseudo-terminal, and plain lines everywhere else."""

from __future__ import annotations

import io
import os
import pty
import re
from dataclasses import replace
from pathlib import Path

import pytest

from search import display
from search.console import console, duration, number, short, visible
from search.display import Display, frame, status_line
from search.progress import Best, Snapshot, TrialView

SNAPSHOT = Snapshot(
    run="toy-1",
    phase="search",
    objective="selection_accuracy",
    stage="searching",
    elapsed_s=83.2,
    trials_total=32,
    states={"running": 2, "waiting": 1, "complete": 8, "pruned": 3, "failed": 1},
    epochs_done=312,
    epochs_per_s=3.75,
    trials_per_min=8.65,
    slots=4,
    slots_busy=2,
    engines=2,
    left_s=138.0,
    best=Best(14, "bold [red]", 0.22134, 12, {"kl.weight": 0.0213, "kl.schedule": "linear"}),
    running=(
        TrialView(15, None, 7, 20, 0.1912, 0.2, "engine-0"),
        TrialView(16, "habit", 0, 20, None, None, None),
    ),
    news=("trial 13 PRUNED after 4 epochs: successive_halving",),
)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def drawn(snapshot: Snapshot, news: tuple[str, ...] = (), width: int = 100) -> str:
    screen = console(io.StringIO())
    screen.width = width
    screen.print(frame(snapshot, news))
    return screen.file.getvalue()


# ---------------------------------------------------------------------- what is said


def test_the_status_line_tells_everything_in_one_line() -> None:
    assert status_line(SNAPSHOT) == (
        "1:23 12 of 32 trials ended, 8 complete, 3 pruned, 1 failed, 2 running, 8.7 trials/min, "
        "3.8 epochs/s, 2 of 4 slots busy, about 2:18 left; "
        "best selection_accuracy 0.2213: trial 14 (bold [red]), epoch 12"
    )


def test_the_status_line_of_a_search_that_has_nothing_yet_claims_nothing() -> None:
    line = status_line(replace(SNAPSHOT, best=None, left_s=None))
    assert "best" not in line and "left" not in line
    assert status_line(replace(SNAPSHOT, stage="starting")) == "1:23 starting Ray"


def test_the_wait_at_the_start_says_for_what() -> None:
    starting = replace(SNAPSHOT, stage="starting", engines=0, engines_wanted=2)
    assert status_line(starting) == "1:23 Ray runs; starting 2 engines"
    assert status_line(replace(starting, engines_wanted=1)) == "1:23 Ray runs; starting 1 engine"
    searching = replace(SNAPSHOT, engines=1, engines_wanted=2)
    assert ", 1 of 2 engines ready, about" in status_line(searching)
    assert "1 of 2 engines ready" in drawn(searching)
    assert "ready" not in status_line(replace(searching, engines=2))


@pytest.mark.parametrize(
    "part",
    [
        "searching",
        "about 2:18 left",
        "8 complete, 3 pruned, 1 failed, 2 running, 18 to go of 32",
        "312 epochs",
        "2 of 4 slots busy",
        "selection_accuracy 0.2213: trial 14 (bold [red]), epoch 12",
        "kl.weight=0.0213  kl.schedule=linear",
        "7/20",
        "habit",
        "engine-0",
        "trial 13 PRUNED",
    ],
)
def test_the_live_table_tells(part: str) -> None:
    assert part in drawn(SNAPSHOT, SNAPSHOT.news)


def test_a_confirmation_says_that_it_is_none_of_the_search() -> None:
    confirming = replace(SNAPSHOT, phase="confirm", best=None)
    assert "confirming: the best again, with fresh seeds" in drawn(confirming)
    assert "confirm " in drawn(confirming) and "search " not in drawn(confirming)


def test_names_from_a_space_are_text_and_steer_nothing() -> None:
    evil = replace(SNAPSHOT, best=replace(SNAPSHOT.best, preset="[bold]x\x1b[2J"))
    for text in (drawn(evil, ("news\x1b]0;title\x07",)), status_line(evil)):
        assert "\x1b" not in text and "\x07" not in text
        assert "[bold]x\\x1b[2J" in text


def test_more_trials_than_fit_are_counted() -> None:
    many = tuple(TrialView(n, None, 1, 20, 0.1, 0.1, "engine-0") for n in range(40))
    text = drawn(replace(SNAPSHOT, running=many))
    assert "and 24 more" in text and len(text.splitlines()) < 30


def test_a_table_of_eighty_columns_keeps_its_values() -> None:
    text = drawn(SNAPSHOT, ("a very long line of news " * 10,), width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "7/20" in text and "0.1912" in text


def test_the_score_of_a_trial_that_ended_is_whole_on_eighty_columns() -> None:
    news = "trial 13 (class_balanced) PRUNED after 14 epochs: successive_halving, selection_accuracy 0.2213"
    assert "selection_accuracy 0.2213" in " ".join(drawn(SNAPSHOT, (news,), width=80).split())


def test_a_second_interrupt_is_explained_while_the_first_is_obeyed() -> None:
    assert "Ctrl-C again leaves at once" in drawn(replace(SNAPSHOT, stage="stopping"))


# ---------------------------------------------------------------------- plain lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets: `clock[0]` in seconds."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_news_come_at_once_and_the_status_every_ten_seconds(clock: list[float]) -> None:
    file = io.StringIO()
    shown = Display(Path("runs/toy-1"), file)
    shown.start()
    quiet = replace(SNAPSHOT, news=())
    shown(SNAPSHOT)  # 100 s: the stage is new
    for second in range(101, 125):
        clock[0] = second
        shown(quiet)
    shown.stop()
    lines = file.getvalue().splitlines()
    assert lines[0].endswith("runs/toy-1") and "loss-search tensorboard runs/toy-1" in lines[1]
    assert lines[2] == f"1:23 {SNAPSHOT.news[0]}"
    assert lines[3] == "1:23 searching"
    assert lines[4:] == [status_line(SNAPSHOT)] * 2
    assert "\x1b" not in file.getvalue()


def test_a_change_of_stage_is_told_at_once(clock: list[float]) -> None:
    file = io.StringIO()
    shown = Display(Path("runs/toy-1"), file)
    for stage in ("starting", "starting", "searching", "stopping", "finishing"):
        shown(replace(SNAPSHOT, news=(), stage=stage))
    said = file.getvalue().splitlines()
    assert len(said) == 4
    assert "starting Ray" in said[0] and "Ctrl-C again" in said[2]


# ---------------------------------------------------------------------- a terminal


def on_a_terminal(snapshots: list[Snapshot]) -> str:
    """Everything that a `Display` writes to a pseudo-terminal of 100 columns."""
    controller, terminal = pty.openpty()
    os.set_blocking(controller, False)
    written = b""
    with open(terminal, "w") as file, Display(Path("runs/toy-1"), file) as shown:
        assert shown.live is not None, "a terminal gets the live table"
        shown.console.width = 100
        for snapshot in snapshots:
            shown(snapshot)
            file.flush()
            written += os.read(controller, 1 << 16)
    written += os.read(controller, 1 << 16)
    os.close(controller)
    return written.decode()


def test_a_terminal_gets_a_table_that_is_drawn_anew_and_removed_at_the_end(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    written = on_a_terminal([SNAPSHOT, replace(SNAPSHOT, epochs_done=313, news=("trial 15 COMPLETE",))])
    text = CONTROL.sub("", written)
    assert "312 epochs" in text and "313 epochs" in text
    last = text[text.index("313 epochs") :]
    assert "trial 13 PRUNED" in last and "trial 15 COMPLETE" in last, "earlier news stay"
    assert written.count("\x1b[1A") > 10, "the table is removed line by line"


def test_the_cursor_is_never_left_hidden(monkeypatch) -> None:
    """A second Ctrl-C ends the process without any clean-up."""
    monkeypatch.setenv("TERM", "xterm-256color")
    written = on_a_terminal([SNAPSHOT])
    first_table = written.index("312 epochs")
    assert written[:first_table].rindex("\x1b[?25h") > written[:first_table].rindex("\x1b[?25l")


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "-"), (0.22134, "0.2213"), (0.0927, "0.0927"), (1e-7, "1e-07"), (12345.678, "1.235e+04"),
        (3.0, "3"), (7, "7"), ("linear", "linear"), (float("nan"), "nan"), (float("inf"), "inf"), (0.0, "0"),
    ],
)  # fmt: skip
def test_measured_numbers_are_short(value: object, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.1, "0.1"), (1e-7, "1e-07"), (4096, "4,096"), (2.0, "2"), (True, "True"), (None, "-"), ("a", "a"),
     (float("inf"), "inf"), (float("nan"), "nan")],
)  # fmt: skip
def test_settings_have_no_needless_digits(value: object, said: str) -> None:
    assert short(value) == said


@pytest.mark.parametrize(("seconds", "said"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_durations_are_clock_times(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_visible_text_keeps_lines_and_letters_and_shows_what_steers() -> None:
    assert visible("größe\nnext\x1b[1m\x07\x85") == "größe\nnext\\x1b[1m\\x07\\x85"
