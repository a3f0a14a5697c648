"""The checker: every way in which a record can lie is found, and a whole record has no complaint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_rows import ALL, METADATA, fill, parts, row, trial_row

from search.record import Recorder, _write, restore, summarise
from search.record_check import check_record


@pytest.fixture
def whole(tmp_path):
    """A finished run of three trials: run directory, study and events, about which nobody can complain."""
    study, events = [], [{"kind": "search", "what": "start"}]
    for trial, epoch in ALL:
        events.append({"kind": "reported", "row": row(trial, epoch)})
    recorder = fill(tmp_path)
    for number in range(3):
        study.append(
            {"number": number, "state": "COMPLETE", "value": number + 0.4, "params": {}, "user_attrs": {}}
        )
        events.append({"kind": "finished", "trial": number, "state": "COMPLETE"})
    events.append({"kind": "search", "what": "finish"})
    recorder.write_trials([trial_row(number) for number in range(3)])
    recorder.compact()
    assert check_record(tmp_path, study, events) == []
    return tmp_path, study, events


def complaint(run_dir, study, events) -> str:
    complaints = check_record(run_dir, study, events)
    assert complaints
    return "\n".join(complaints)


def rewrite(run_dir: Path, change) -> None:
    """epochs.parquet again, its rows passed through `change`."""
    table = pq.read_table(run_dir / "epochs.parquet")
    rows = change(table.to_pylist())
    _write(pa.Table.from_pylist(rows, table.schema), run_dir / "epochs.parquet", table.schema.metadata)


def test_the_checker_finds_a_lost_row(whole):
    run_dir, study, events = whole
    rewrite(run_dir, lambda rows: rows[:-1])
    found = complaint(run_dir, study, events)
    assert "acknowledged row missing from Parquet: search trial 2 epoch 4" in found
    assert "counts 4 epochs, epochs.parquet has 3" in found


def test_the_checker_finds_a_row_that_is_there_twice(whole):
    run_dir, study, events = whole
    rewrite(run_dir, lambda rows: [*rows, rows[3]])
    assert complaint(run_dir, study, events) == "row twice in epochs.parquet: search trial 0 epoch 4"


def test_the_checker_finds_a_row_that_two_parts_hold(whole):
    run_dir, study, events = whole
    (run_dir / "epochs.parquet").unlink()
    fill(run_dir)
    shutil.copy(parts(run_dir)[0], run_dir / "epochs" / "part-00000099-3.parquet")
    assert "row twice in the parts: search trial 0 epoch 1; search trial 1 epoch 1" in complaint(*whole)


def test_the_checker_finds_a_changed_number_even_where_a_checksum_holds(whole):
    run_dir, study, events = whole
    rewrite(run_dir, lambda rows: [{**rows[0], "weight.kl": 0.25}, *rows[1:]])
    assert complaint(*whole) == "weight.kl differs from what was reported: search trial 0 epoch 1"


def test_the_checker_finds_a_gap_in_a_trials_epochs(whole):
    run_dir, study, events = whole
    events = [event for event in events if event.get("row", {}).get("epoch") != 2]
    rewrite(run_dir, lambda rows: [one for one in rows if one["epoch"] != 2])
    assert "epoch missing between others: search trial 0 epoch 2" in complaint(run_dir, study, events)


def test_the_checker_finds_a_best_that_the_rows_do_not_give(whole):
    run_dir, study, events = whole
    Recorder(run_dir, METADATA).write_trials([trial_row(0, objective=9.0), trial_row(1), trial_row(2)])
    assert "trial 0: objective is 9.0, its rows give 0.4" in complaint(*whole)


def test_the_checker_finds_a_study_with_another_value(whole):
    run_dir, study, events = whole
    study[1]["value"] = 0.9
    assert "objective is [1.4] in trials.parquet, 0.9 in the study" in complaint(*whole)


def test_the_checker_compares_all_values_of_several_objectives(whole):
    run_dir, study, events = whole
    names = ["selection_accuracy", "a_second"]
    extra = {"val.a_second": 2.0}
    events = [{**e, "row": {**e["row"], **extra}} if "row" in e else e for e in events]
    (run_dir / "epochs.parquet").unlink()
    assert restore(run_dir, events, METADATA) == [f"{run_dir}: 12 row(s) recovered from the event log"]
    summaries = [summarise([{**row(n, e), **extra} for e in range(1, 5)], names) for n in range(3)]
    Recorder(run_dir, METADATA).write_trials([trial_row(n, **summaries[n]) for n in range(3)])
    for number, trial in enumerate(study):
        trial["value"] = [number + 0.4, 2.0]
    assert check_record(run_dir, study, events) == []
    study[0]["value"] = [0.4, 3.0]
    assert "objective is [0.4, 2.0] in trials.parquet, [0.4, 3.0] in the study" in complaint(
        run_dir, study, events
    )


def test_the_checker_finds_a_running_trial_only_in_a_finished_run(whole):
    run_dir, study, events = whole
    study.append({"number": 3, "state": "RUNNING", "value": None, "params": {}, "user_attrs": {}})
    assert complaint(*whole) == "trial 3: is RUNNING in the study of a finished run"
    events.append({"kind": "search", "what": "resume"})
    assert check_record(*whole) == []


def test_the_checker_finds_states_that_disagree_and_trials_run_twice(whole):
    run_dir, study, events = whole
    study[0]["state"] = "FAIL"
    assert "trial 0: finished as COMPLETE, but is FAIL in the study" in complaint(*whole)
    study[0]["state"] = "COMPLETE"
    events.insert(-1, {"kind": "started", "trial": 1})
    assert complaint(*whole) == "trial 1: was started again after it had finished as COMPLETE"
    events[-2] = {"kind": "finished", "trial": 1, "state": "FAIL"}
    assert "trial 1: finished as COMPLETE and again as FAIL" in complaint(*whole)
    del events[-2]
    del study[2]
    assert "trial 2: is recorded, but the study does not have it" in complaint(*whole)


def test_the_checker_finds_a_trial_that_trials_parquet_lacks(whole):
    run_dir, study, events = whole
    Recorder(run_dir, METADATA).write_trials([trial_row(0), trial_row(1)])
    assert "trial 2: is absent in trials.parquet, but COMPLETE in the study" in complaint(*whole)


def test_the_checker_finds_a_checksum_that_fails(whole):
    run_dir, study, events = whole
    path = run_dir / "epochs.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = complaint(*whole)
    assert "epochs.parquet: torn or damaged" in found
    assert "search trial 0 epoch 1; search trial 0 epoch 2;" in found
    assert "and 7 more" in found
