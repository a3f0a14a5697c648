"""The event log: what was appended is read back, whatever happens to the file's end."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.errors import DamagedRun, RunFailed
from search.events import EventLog, read_events

ROOT = Path(__file__).parents[1]


def reported(trial: int, epoch: int, **columns: float) -> dict:
    row = {"trial": trial, "epoch": epoch, **columns, "vectors": {"kl_per_dim": [0.5, 1.5]}}
    return {"kind": "reported", "row": row}


def write(path: Path, count: int) -> list[bytes]:
    """A log of `count` events, and its lines."""
    with EventLog(path) as log:
        for epoch in range(1, count + 1):
            log.append(reported(0, epoch))
    return path.read_bytes().splitlines(keepends=True)


def epochs(path: Path) -> list[int]:
    return [event["row"]["epoch"] for event in read_events(path)[0]]


def test_what_was_appended_is_read_back_in_order_with_rising_numbers_and_its_time(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        assert log.append({"kind": "search", "what": "start"}) == 0
        assert log.append(reported(3, 1, **{"val.x": 0.25})) == 1
    with EventLog(path) as log:
        log.append({"kind": "retried", "trial": 3, "reason": 'said "no"\n\u2028\ud800'})
    events, warnings = read_events(path)
    assert warnings == []
    assert [event["sequence"] for event in events] == [0, 1, 2]
    assert events[1]["row"] == {"trial": 3, "epoch": 1, "val.x": 0.25, "vectors": {"kl_per_dim": [0.5, 1.5]}}
    assert events[2]["reason"] == 'said "no"\n\u2028\ud800'
    assert all(abs(event["time"] - path.stat().st_mtime) < 60 for event in events)


def test_every_line_is_a_json_object_by_itself(tmp_path):
    for line in write(tmp_path / "events.jsonl", 3):
        assert json.loads(line)["event"]["kind"] == "reported"


def test_numbers_that_are_not_finite_come_back_as_they_were(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append(reported(0, 1, a=math.nan, b=math.inf, c=-math.inf, d=5e-324, e=0.1 + 0.2))
    row = read_events(path)[0][0]["row"]
    assert math.isnan(row["a"])
    assert (row["b"], row["c"], row["d"], row["e"]) == (math.inf, -math.inf, 5e-324, 0.1 + 0.2)


def test_a_log_cut_at_any_byte_keeps_every_whole_line_and_can_be_appended_to(tmp_path):
    lines = write(tmp_path / "whole.jsonl", 3)
    whole = b"".join(lines)
    for cut in range(len(whole)):
        path = tmp_path / f"cut-{cut}.jsonl"
        path.write_bytes(whole[:cut])
        ends = [len(b"".join(lines[:count])) for count in range(4)]
        kept = sum(end <= cut for end in ends[1:])
        assert epochs(path) == list(range(1, kept + 1))
        assert bool(read_events(path)[1]) == (cut not in ends)
        with EventLog(path) as log:
            assert bool(log.warnings) == (cut not in ends)
            log.append(reported(0, 99))
        events, warnings = read_events(path)
        assert warnings == []
        assert [event["row"]["epoch"] for event in events] == [*range(1, kept + 1), 99]
        copy = path.with_name(f"{path.name}.torn-1")
        assert (copy.read_bytes() if copy.exists() else b"") == whole[ends[kept] : cut]


@pytest.mark.parametrize(
    "tail", [b"\0" * 5000, b"\0" * 100 + b"\n", b"garbage\n\n\xff\n", b'{"crc":"', b"\n"]
)
def test_a_tail_that_no_append_wrote_is_cut_and_kept_beside(tmp_path, tail):
    path = tmp_path / "events.jsonl"
    write(path, 2)
    with path.open("ab") as file:
        file.write(tail)
    events, warnings = read_events(path)
    assert len(events) == 2
    assert len(warnings) == 1
    EventLog(path).close()
    assert read_events(path)[1] == []
    assert (tmp_path / "events.jsonl.torn-1").read_bytes() == tail


def test_a_second_torn_tail_does_not_overwrite_the_copy_of_the_first(tmp_path):
    path = tmp_path / "events.jsonl"
    for tail in (b"first", b"second"):
        write(path, 1)
        with path.open("ab") as file:
            file.write(tail)
    EventLog(path).close()
    assert (tmp_path / "events.jsonl.torn-1").read_bytes() == b"first"
    assert (tmp_path / "events.jsonl.torn-2").read_bytes() == b"second"


def test_any_flipped_bit_costs_one_event_at_most_and_is_told(tmp_path):
    whole = b"".join(write(tmp_path / "whole.jsonl", 5))
    draw = random.Random(0)
    path = tmp_path / "flipped.jsonl"
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        events, warnings = read_events(path)
        lost = {1, 2, 3, 4, 5} - {event["row"]["epoch"] for event in events}
        # A flipped newline joins two lines, and both are lost.
        assert 1 <= len(lost) <= (2 if damaged.count(b"\n") < 5 else 1)
        assert warnings


def test_a_corrupt_line_in_the_middle_is_named_and_survives_appending(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = write(path, 4)
    lines[1] = lines[1].replace(b"1.5", b"9.5")
    path.write_bytes(b"".join(lines))
    events, warnings = read_events(path)
    assert epochs(path) == [1, 3, 4]
    assert warnings == [f"{path}:2: corrupt line, left out"]
    with EventLog(path) as log:
        assert log.warnings == []
        assert log.append(reported(0, 5)) == 4
    assert epochs(path) == [1, 3, 4, 5]


def test_a_line_that_is_there_twice_counts_once_and_a_removed_one_is_missed(tmp_path):
    path = tmp_path / "events.jsonl"
    lines = write(path, 4)
    path.write_bytes(b"".join([lines[0], lines[1], lines[1], lines[3]]))
    events, warnings = read_events(path)
    assert [event["sequence"] for event in events] == [0, 1, 3]
    assert len(warnings) == 2
    assert "again" in warnings[0]
    assert "events 2 to 2 are missing" in warnings[1]


def test_a_forged_line_with_a_right_checksum_but_no_event_in_it_is_left_out(tmp_path):
    import zlib

    path = tmp_path / "events.jsonl"
    for body in (
        b"[" * 100_000,
        b'"text"',
        b'{"kind":"reported"}',
        b'{"kind":"other","sequence":0}',
        b"\xff",
    ):
        path.write_bytes(b'{"crc":"%08x","event":' % zlib.crc32(body) + body + b"}\n")
        events, warnings = read_events(path)
        assert events == []
        assert len(warnings) == 1


def test_a_full_disk_raises_and_leaves_no_torn_tail(tmp_path):
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append(reported(0, 1))
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, hard))  # the kernel takes 40 bytes of the next line
    try:
        with pytest.raises(OSError) as caught:
            log.append(reported(0, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert path.stat().st_size == size
    assert log.append(reported(0, 3)) == 1  # the failed one took no number
    log.close()
    assert epochs(path) == [1, 3]
    assert read_events(path)[1] == []


def test_an_event_of_unknown_kind_or_without_its_fields_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        with pytest.raises(ValueError, match="kind='end'.*allowed: search, started"):
            log.append({"kind": "end"})
        with pytest.raises(ValueError, match="'started' event lacks seed, preset, engine"):
            log.append({"kind": "started", "trial": 1, "params": {}})
        with pytest.raises(TypeError):
            log.append({"kind": "reported", "row": {"val.x": object()}})
    assert path.read_bytes() == b""


def test_a_log_that_was_removed_under_the_run_is_an_error_and_not_a_silent_loss(tmp_path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        path.unlink()
        with pytest.raises(RunFailed, match="was removed"):
            log.append(reported(0, 1))


def test_a_log_that_is_a_symbolic_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_text("precious\n")
    (tmp_path / "events.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedRun, match="symbolic link"):
        EventLog(tmp_path / "events.jsonl")
    assert (tmp_path / "elsewhere").read_text() == "precious\n"


def test_a_log_that_does_not_exist_reads_as_empty_with_a_warning(tmp_path):
    events, warnings = read_events(tmp_path / "events.jsonl")
    assert events == []
    assert "there is no event log" in warnings[0]


def test_sync_follows_a_finished_trial_at_once_and_other_events_in_time(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("search.events.SYNC_INTERVAL_S", 1000.0)
    log = EventLog(tmp_path / "events.jsonl")
    synced.clear()
    log.append(reported(0, 1))
    assert synced == []
    log.append(
        {"kind": "finished", "trial": 0, "state": "COMPLETE", "reason": None, "error": None, "numbers": {}}
    )
    assert len(synced) == 1
    log.sync()
    assert len(synced) == 1
    monkeypatch.setattr("search.events.SYNC_INTERVAL_S", 0.0)
    log.append(reported(0, 2))
    assert len(synced) == 2
    log.close()


WRITER = """
import sys
from pathlib import Path
from search.events import EventLog
with EventLog(Path(sys.argv[1])) as log:
    epoch = 0
    while True:
        epoch += 1
        log.append({"kind": "reported", "row": {"trial": 0, "epoch": epoch, "pad": "x" * 5000}})
        print(epoch, flush=True)
"""


def test_no_event_that_was_acknowledged_is_lost_when_the_writer_is_killed(tmp_path):
    for attempt in range(5):
        path = tmp_path / f"events-{attempt}.jsonl"
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(20 + 37 * attempt):
                last = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            rest = process.stdout.read().splitlines(keepends=True)
        whole = [line for line in [last, *rest] if line.endswith("\n")]
        acknowledged = int(whole[-1])
        assert epochs(path)[:acknowledged] == list(range(1, acknowledged + 1))
