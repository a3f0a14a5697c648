"""The record: each reported row once, whatever is killed, torn or filled up in between."""

from __future__ import annotations

import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_rows import ALL, METADATA, fill, keys, parts, row, trial_row

from search.errors import DamagedRun
from search.events import EventLog, read_events
from search.record import (
    EPOCH_COLUMNS,
    Recorder,
    read_epochs,
    read_trials,
    restore,
    rows_from_events,
)
from search.record_check import check_record

ROOT = Path(__file__).parents[1]


def test_a_row_comes_back_with_its_values_and_its_columns_types(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    assert recorder.add(row(7, 1, **{"val.bad": math.inf, "val.none": None, "train.nan": math.nan}))
    recorder.flush()
    table = read_epochs(tmp_path)
    (back,) = table.to_pylist()
    assert back["trial"] == 7
    assert back["phase"] == "search"
    assert back["engine"] == "engine-0"
    assert back["train.kl"] == 3.0
    assert back["val.bad"] == math.inf
    assert back["val.none"] is None
    assert math.isnan(back["train.nan"])
    assert back["active.kl"] == 128
    assert back["collapsed.mode"] is False
    assert back["collapsed.posterior"] is None
    assert back["vector.kl_per_dim"] == [0.1, 0.2]
    types = {field.name: str(field.type) for field in table.schema}
    assert types["trial"] == types["epoch"] == types["slot"] == "int32"
    assert types["weight.kl"] == types["lr"] == types["val.none"] == "double"
    assert types["active.kl"] == "int64"
    assert types["collapsed.posterior"] == "bool"
    assert pa.types.is_list(table.schema.field("vector.kl_per_dim").type)


def test_rows_with_other_columns_make_a_union_with_empty_cells(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    recorder.add({"trial": 0, "epoch": 1, "val.a": 1})
    recorder.flush()
    recorder.add({"trial": 1, "epoch": 1, "val.b": 2.5, "collapsed.mode": True})
    recorder.flush()
    for _ in range(2):
        first, second = read_epochs(tmp_path).to_pylist()
        assert (first["val.a"], first["val.b"], first["collapsed.mode"]) == (1.0, None, None)
        assert (second["val.a"], second["val.b"], second["collapsed.mode"]) == (None, 2.5, True)
        recorder.compact()


def test_compaction_sorts_and_keeps_the_space_and_versions_and_removes_the_parts(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    order = list(ALL)
    random.Random(0).shuffle(order)
    for index, (trial, epoch) in enumerate(order):
        recorder.add(row(trial, epoch))
        if index % 5 == 0:
            recorder.flush()
    before = parts(tmp_path)
    assert len(before) == 3
    assert recorder.compact() == []  # flushes what is in the buffer
    assert not (tmp_path / "epochs").exists()
    assert keys(tmp_path) == ALL
    metadata = pq.read_schema(tmp_path / "epochs.parquet").metadata
    assert metadata[b"loss_search.space"] == b"family: beta_vae"
    assert metadata[b"loss_search.versions"] == b'{"torch": "2.13"}'
    assert metadata[b"loss_search.schema"] == b"2"
    assert read_epochs(tmp_path).schema.metadata == metadata


def test_a_row_that_is_added_again_is_refused_and_the_first_is_kept_even_after_reopening(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    assert recorder.add(row(0, 1, lr=1.0))
    assert not recorder.add(row(0, 1, lr=2.0))
    assert recorder.add(row(0, 1, lr=3.0, phase="confirm"))  # another phase is another row
    recorder.flush()
    assert not recorder.add(row(0, 1, lr=4.0))
    reopened = Recorder(tmp_path, METADATA)
    assert not reopened.add(row(0, 1, lr=5.0))
    reopened.compact()
    assert not Recorder(tmp_path, METADATA).add(row(0, 1, lr=6.0))
    table = read_epochs(tmp_path)
    assert table["phase"].to_pylist() == ["confirm", "search"]
    assert table["lr"].to_pylist() == [3.0, 1.0]


def test_a_reopened_recorder_never_writes_over_a_part(tmp_path):
    fill(tmp_path)
    before = {part: part.read_bytes() for part in parts(tmp_path)}
    recorder = Recorder(tmp_path, METADATA)
    for trial in range(3):
        recorder.add(row(trial, 5))
    recorder.flush()
    assert len(parts(tmp_path)) == 5
    assert all(part.read_bytes() == content for part, content in before.items())


def test_a_resume_that_finds_both_epochs_and_parts_sees_each_row_once(tmp_path):
    recorder = fill(tmp_path)
    shutil.copytree(tmp_path / "epochs", tmp_path / "saved")
    recorder.compact()
    for removed in range(5):  # killed after removing this many parts
        shutil.rmtree(tmp_path / "epochs", ignore_errors=True)
        shutil.copytree(tmp_path / "saved", tmp_path / "epochs")
        for part in parts(tmp_path)[:removed]:
            part.unlink()
        assert keys(tmp_path) == ALL
        again = Recorder(tmp_path, METADATA)
        assert not any(again.add(row(trial, epoch)) for trial, epoch in ALL)
        assert (
            check_record(tmp_path, [{"number": n, "state": "RUNNING", "value": None} for n in range(3)], [])
            == []
        )
        again.compact()
        assert keys(tmp_path) == ALL
        assert pq.read_metadata(tmp_path / "epochs.parquet").num_rows == len(ALL)


def test_a_compaction_killed_at_any_step_loses_nothing(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    for survived in range(12):
        run_dir = tmp_path / str(survived)
        run_dir.mkdir()
        recorder = fill(run_dir)
        steps = 0

        def step(real, survived=survived):
            def call(*args, **kwargs):
                nonlocal steps
                steps += 1
                if steps > survived:
                    raise Killed
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", step(os.replace))
            patch.setattr(os, "fsync", step(os.fsync))
            patch.setattr(Path, "unlink", step(Path.unlink))
            patch.setattr(Path, "rmdir", step(Path.rmdir))
            try:
                recorder.compact()
                finished = True
            except Killed:
                finished = False
        assert keys(run_dir) == ALL
        Recorder(run_dir, METADATA).compact()
        assert keys(run_dir) == ALL
    assert finished  # so the loop went through all steps


def test_a_reader_that_comes_between_any_two_steps_of_a_compaction_sees_every_row_once(tmp_path, monkeypatch):
    recorder = fill(tmp_path)
    seen = []

    def watched(real):
        def call(*args, **kwargs):
            seen.append(keys(tmp_path))
            result = real(*args, **kwargs)
            seen.append(keys(tmp_path))
            return result

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((os, "replace"), (Path, "unlink"), (Path, "rmdir")):
            patch.setattr(owner, name, watched(getattr(owner, name)))
        recorder.compact()
    assert len(seen) == 2 * 6
    assert all(found == ALL for found in seen)


def test_a_part_that_vanishes_between_listing_and_reading_is_found_in_the_compacted_file(
    tmp_path, monkeypatch
):
    recorder = fill(tmp_path)
    listdir = os.listdir

    def late(directory):
        names = listdir(directory)
        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", listdir)
            recorder.compact()
        return names

    monkeypatch.setattr(os, "listdir", late)
    warnings: list[str] = []
    assert len(read_epochs(tmp_path, warnings)) == len(ALL)
    assert warnings == []


def test_too_many_parts_are_compacted_by_flush(tmp_path, monkeypatch):
    monkeypatch.setattr("search.record.MAX_PARTS", 3)
    fill(tmp_path)
    assert parts(tmp_path) == []
    assert keys(tmp_path) == ALL


def test_a_part_cut_at_any_byte_is_left_out_with_a_warning_and_restored_from_the_events(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    with EventLog(whole / "events.jsonl") as log:
        for trial, epoch in ALL:
            log.append({"kind": "reported", "row": row(trial, epoch)})
    fill(whole)
    draw = random.Random(1)
    for case in range(12):
        run_dir = tmp_path / str(case)
        shutil.copytree(whole, run_dir)
        victim = draw.choice(parts(run_dir))
        size = victim.stat().st_size
        os.truncate(victim, [0, 1, 3, 4, 11, size - 1][case] if case < 6 else draw.randrange(size))
        warnings: list[str] = []
        assert len(read_epochs(run_dir, warnings)) == 9
        assert len(warnings) == 1
        assert victim.name in warnings[0]
        events, _ = read_events(run_dir / "events.jsonl")
        told = restore(run_dir, events, METADATA)
        assert len(told) == 2
        assert "kept as " + victim.name + ".torn-1" in told[0]
        assert "3 row(s) recovered" in told[1]
        assert repr(read_epochs(run_dir).to_pylist()) == repr(read_epochs(whole).to_pylist())
        assert restore(run_dir, events) == []


def test_a_flipped_bit_is_never_read_as_data(tmp_path):
    recorder = fill(tmp_path)
    recorder.compact()
    path = tmp_path / "epochs.parquet"
    whole, truth = path.read_bytes(), read_epochs(tmp_path).to_pylist()
    draw = random.Random(2)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        warnings: list[str] = []
        assert len(read_epochs(tmp_path, warnings)) == 0
        assert len(warnings) == 1
    path.write_bytes(whole)
    assert repr(read_epochs(tmp_path).to_pylist()) == repr(truth)


def test_other_readers_of_parquet_read_the_record_and_its_page_checksums(tmp_path):
    fill(tmp_path).compact()
    table = pq.read_table(tmp_path / "epochs.parquet", page_checksum_verification=True)
    assert repr(table.to_pylist()) == repr(read_epochs(tmp_path).to_pylist())
    content = bytearray((tmp_path / "epochs.parquet").read_bytes())
    column = pq.read_metadata(tmp_path / "epochs.parquet").row_group(0).column(6)
    content[column.data_page_offset + column.total_compressed_size - 2] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)


def test_restore_brings_back_rows_that_were_only_in_the_buffer_and_leaves_no_half_written_file(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        recorder = Recorder(tmp_path, METADATA)
        for trial, epoch in ALL:
            log.append({"kind": "reported", "row": row(trial, epoch)})
            recorder.add(row(trial, epoch))
            if (trial, epoch) == (1, 2):
                recorder.flush()
    (tmp_path / "epochs" / ".part-00000006-6.parquet.tmp").write_bytes(b"PAR1")
    (tmp_path / ".trials.parquet.tmp").write_bytes(b"PAR1")
    events, warnings = read_events(tmp_path / "events.jsonl")
    assert warnings == []
    assert restore(tmp_path, events, METADATA) == [f"{tmp_path}: 6 row(s) recovered from the event log"]
    assert keys(tmp_path) == ALL
    assert not list(tmp_path.rglob("*.tmp"))
    assert repr(rows_from_events(events + events)) == repr([row(*key) for key in ALL])


def test_a_full_disk_raises_leaves_no_piece_and_keeps_the_rows_for_the_next_flush(tmp_path):
    recorder = fill(tmp_path, epochs=3)
    before = sorted(tmp_path.rglob("*"))
    for trial in range(3):
        recorder.add(row(trial, 4))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError):
            recorder.flush()
        with pytest.raises(OSError):
            recorder.write_trials([trial_row(0)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == before
    recorder.flush()
    assert keys(tmp_path) == ALL


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("validation.x", 1.0, "column 'validation.x' is not of the record's schema; trial, epoch"),
        ("val.", 1.0, "column 'val.' is not"),
        ("val.x", "0.5", "val.x='0.5' is not a number"),
        ("active.kl", 1.5, "active.kl=1.5 is not a whole number"),
        ("slot", 2**40, "is not a whole number of 32 bits"),
        ("collapsed.mode", 2, "collapsed.mode=2 is not 0, 1 or NaN"),
        ("epoch", 0, "an epoch from 1"),
        ("trial", -1, "a trial from 0"),
        ("vectors", {"v": ["a"]}, "is not a list of numbers"),
    ],
)
def test_a_row_that_the_schema_does_not_allow_is_refused_and_spoils_no_other(
    tmp_path, column, value, message
):
    recorder = Recorder(tmp_path, METADATA)
    recorder.add(row(0, 1))
    with pytest.raises(ValueError, match=message):
        recorder.add({**row(0, 2), column: value})
    recorder.add(row(0, 3))
    recorder.flush()
    assert keys(tmp_path) == [(0, 1), (0, 3)]


def test_a_record_of_a_newer_version_is_refused_with_both_versions(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("search.record.SCHEMA_VERSION", 3)
        fill(tmp_path)
    for read in (read_epochs, lambda path: Recorder(path, METADATA)):
        with pytest.raises(DamagedRun, match="schema 3, this version reads up to 2"):
            read(tmp_path)


def test_a_foreign_parquet_file_is_no_part_of_the_record(tmp_path):
    fill(tmp_path)
    pq.write_table(pa.table({"trial": [1], "epoch": [1]}), tmp_path / "epochs" / "part-9-1.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "epochs" / "other.parquet")
    warnings: list[str] = []
    assert len(read_epochs(tmp_path, warnings)) == len(ALL)
    assert len(warnings) == 1
    assert "not that of a file of loss-search" in warnings[0]


def test_parts_behind_a_symbolic_link_are_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "epochs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedRun, match="symbolic link"):
        Recorder(tmp_path / "run", METADATA)


def test_an_empty_run_reads_as_empty_tables_with_the_fixed_columns(tmp_path):
    assert read_epochs(tmp_path).column_names == [c.name for c in EPOCH_COLUMNS if not c.name.endswith("*")]
    assert len(read_trials(tmp_path)) == 0
    Recorder(tmp_path, METADATA).compact()
    assert len(read_epochs(tmp_path)) == 0


def test_trials_come_back_with_types_by_their_values_or_as_declared(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    never = {"knob.kl.ramp": None}
    recorder.write_trials([trial_row(0)])
    recorder.write_trials(
        [
            trial_row(1, **{"knob.gamma": 0, "knob.kl.schedule": "linear", "knob.flag": True, **never}),
            trial_row(0, **{"knob.gamma": 2, "knob.kl.schedule": None, "knob.mixed": 3, **never}),
            trial_row(2, **{"knob.mixed": "all", "knob.kl.weight": 1, "state": "PRUNED", "error": "x"}),
        ],
        kinds={"knob.gamma": float},
    )
    table = read_trials(tmp_path)
    types = {field.name: str(field.type) for field in table.schema}
    assert table["trial"].to_pylist() == [0, 1, 2]
    assert types["knob.gamma"] == types["knob.kl.weight"] == types["knob.kl.ramp"] == "double"
    assert types["static.latent_dim"] == types["seed"] == "int64"
    assert types["knob.kl.schedule"] == types["knob.mixed"] == "string"
    assert types["knob.flag"] == "bool"
    assert table["knob.mixed"].to_pylist() == ["3", None, "all"]
    assert table["knob.kl.schedule"].to_pylist() == [None, "linear", None]
    assert table["started_at"][0].as_py() == datetime.fromtimestamp(1_700_000_000.5, UTC)
    assert table["best.val.selection_accuracy"].to_pylist() == [0.4, 1.4, 2.4]
    assert table.schema.metadata[b"loss_search.space"] == b"family: beta_vae"


def test_a_trial_row_with_an_unknown_state_or_column_is_refused(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    with pytest.raises(ValueError, match="state='DONE', allowed: COMPLETE"):
        recorder.write_trials([trial_row(0, state="DONE")])
    with pytest.raises(ValueError, match="column 'objectives' is not"):
        recorder.write_trials([trial_row(0, objectives=1.0)])
    assert not (tmp_path / "trials.parquet").exists()


def test_a_torn_trials_file_reads_as_empty_with_a_warning(tmp_path):
    Recorder(tmp_path, METADATA).write_trials([trial_row(0)])
    os.truncate(tmp_path / "trials.parquet", 500)
    warnings: list[str] = []
    assert len(read_trials(tmp_path, warnings)) == 0
    assert len(warnings) == 1


WRITER = """
import sys
from pathlib import Path
from search.events import EventLog
from search.record import Recorder
run_dir = Path(sys.argv[1])
first = int(sys.argv[2])
recorder = Recorder(run_dir, {})
with EventLog(run_dir / "events.jsonl") as log:
    for epoch in range(first, first + 100000):
        row = {"trial": 0, "epoch": epoch, "val.x": float(epoch), "vectors": {"v": [1.0] * 20}}
        log.append({"kind": "reported", "row": row})
        recorder.add(row)
        print(epoch, flush=True)
        if epoch % 2 == 0:
            recorder.flush()
        if epoch % 6 == 0:
            recorder.compact()
"""


def test_every_acknowledged_row_is_there_once_after_kills_at_random_moments_and_readers_never_fail(tmp_path):
    draw = random.Random(3)
    last = kills = 0
    while kills < 6 or last <= 12:  # beyond twelve rows parts have been merged
        kills += 1
        assert kills < 100, "the writer gets nowhere"
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(last + 1)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            until = time.monotonic() + draw.uniform(0.1, 0.8)
            while time.monotonic() < until:
                warnings: list[str] = []
                seen = read_epochs(tmp_path, warnings)["epoch"].to_pylist()
                assert warnings == []
                assert seen == list(range(1, len(seen) + 1))
            process.send_signal(signal.SIGKILL)
            rest = [line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        EventLog(tmp_path / "events.jsonl").close()
        events, warnings = read_events(tmp_path / "events.jsonl")
        assert warnings == []
        restore(tmp_path, events)
        study = [{"number": 0, "state": "RUNNING", "value": None, "params": {}, "user_attrs": {}}]
        assert check_record(tmp_path, study, events) == []
        last = len(read_epochs(tmp_path))
        assert last >= int(rest[-1])


def test_adding_a_row_costs_microseconds_and_merging_many_rows_seconds(tmp_path):
    recorder = Recorder(tmp_path, METADATA)
    wide = {f"val.metric_{index}": 0.5 for index in range(30)}
    rows = [row(trial, epoch, **wide) for trial in range(400) for epoch in range(1, 51)]
    started = time.process_time()
    for one in rows:
        recorder.add(one)
    adding = (time.process_time() - started) / len(rows)
    started = time.process_time()
    recorder.compact()
    merging = time.process_time() - started
    assert adding < 200e-6  # measured: 20e-6; the rest is for a busy machine
    assert merging < 8  # 20,000 of the 250,000 rows that may take 20 s; measured: 0.3
