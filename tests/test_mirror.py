"""search/mirror.py, search/store_lock.py: what is uploaded and when, a store that is away, who may write."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from pathlib import Path

import pytest

from search import mirror as mirroring
from search import store_lock
from search.errors import BadInput, Incomplete
from search.fetching import Copy
from search.mirror import Mirror
from search.storage import Location
from search.store_lock import STALE_S, StoreLock


@pytest.fixture
def out(tmp_path) -> Location:
    return Location(f"file://{tmp_path}/store")


# ---------------------------------------------------------------------- what the mirror sends


def mirror_of(tmp_path: Path, out: Location, **settings: float) -> Mirror:
    local = tmp_path / "local"
    local.mkdir(exist_ok=True)
    for name in ("space.yaml", "environment.json"):
        (local / name).touch()
    lock = StoreLock(out.store, out.uri)
    lock.acquire()
    return Mirror(local, out.store, lock, **settings)


def test_a_log_is_sent_in_pieces_of_whole_lines_and_only_its_end_again(out, tmp_path, monkeypatch):
    monkeypatch.setattr(mirroring, "PIECE_BYTES", 1000)
    mirror, log = mirror_of(tmp_path, out), tmp_path / "local" / "events.jsonl"
    content = b""
    for cycle in range(60):
        content += b"".join(b"%05d %s\n" % (cycle, b"x" * (7 * cycle)) for _ in range(1 + cycle % 3))
        log.write_bytes(content + b"a line that is being writ")
        before = mirror.traffic.sent_bytes
        mirror.sync()
        assert mirror.traffic.sent_bytes - before < 4000
        pieces = sorted((tmp_path / "store" / "events.jsonl.pieces").iterdir())
        assert b"".join(piece.read_bytes() for piece in pieces) == content
        assert [int(piece.name) for piece in pieces] == [
            sum(piece.stat().st_size for piece in pieces[:index]) for index in range(len(pieces))
        ]
    assert len(pieces) > 10
    copy = Copy(out.store, tmp_path / "copy")
    copy.refresh()
    assert (tmp_path / "copy" / "events.jsonl").read_bytes() == content
    log.write_bytes(content + b"more\n")
    mirror.sync()
    copy.refresh()
    assert (tmp_path / "copy" / "events.jsonl").read_bytes() == content + b"more\n"


def test_what_engines_keep_is_neither_sent_nor_removed_and_pictures_come_here(out, tmp_path):
    mirror, local = mirror_of(tmp_path, out), tmp_path / "local"
    trial = out.store.below("trials/3")
    trial.put("figures/best.png", b"a picture")
    trial.put("model.pt", b"of the engine")
    (local / "trials" / "3").mkdir(parents=True)
    (local / "trials" / "3" / "events.out.tfevents.1.host.2").write_bytes(b"scalars")
    (local / "trials" / "3" / "last.pt").write_bytes(b"not mine")
    mirror.sync()
    assert (local / "trials" / "3" / "figures" / "best.png").read_bytes() == b"a picture"
    (local / "trials" / "3" / "figures" / "best.png").unlink()
    mirror.sync()
    assert set(trial.list()) == {"figures/best.png", "model.pt", "events.out.tfevents.1.host.2"}


def test_removals_are_followed_but_not_the_removal_of_the_run_itself(out, tmp_path):
    mirror, local = mirror_of(tmp_path, out), tmp_path / "local"
    (local / "epochs").mkdir()
    (local / "epochs" / "part-00000000-3.parquet").write_bytes(b"rows")
    mirror.sync()
    (local / "epochs" / "part-00000000-3.parquet").unlink()
    (local / "epochs.parquet").write_bytes(b"rows")
    mirror.sync()
    names = {name for name in out.store.list() if "lock/" not in name}
    assert names == {"space.yaml", "environment.json", "epochs.parquet"}
    shutil.rmtree(local)
    with pytest.raises(Incomplete, match="vanished from the local copy"):
        mirror.sync()
    assert names <= set(out.store.list())


def test_links_and_passing_files_are_not_sent(out, tmp_path):
    mirror, local = mirror_of(tmp_path, out), tmp_path / "local"
    (tmp_path / "secret").write_text("of this machine")
    (local / "link").symlink_to(tmp_path / "secret")
    for name in (".lock", ".trials.parquet.tmp", "study.journal.lock"):
        (local / name).touch()
    mirror.sync()
    assert {name for name in out.store.list() if "lock/" not in name} == {"space.yaml", "environment.json"}


# ---------------------------------------------------------------------- a store that is away


def test_a_store_that_is_away_for_a_while_costs_nothing_and_is_said(out, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    mirror, log = mirror_of(tmp_path, out, every_s=0.05), tmp_path / "local" / "events.jsonl"
    log.write_text("one\n")
    mirror.start()
    _until(lambda: mirror.traffic.cycles >= 1)
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").touch()
    log.write_text("one\ntwo\n")
    _until(lambda: "cannot be written" in caplog.text)
    assert mirror.fault is None
    (tmp_path / "store").unlink()
    (tmp_path / "away").rename(tmp_path / "store")
    _until(lambda: "can be written again" in caplog.text)
    mirror.close()
    assert (tmp_path / "store" / "events.jsonl.pieces" / f"{0:016d}").read_text() == "one\ntwo\n"


def test_a_store_that_stays_away_is_a_fault_that_names_the_local_copy(out, tmp_path):
    mirror = mirror_of(tmp_path, out, every_s=0.05, away_s=1.0)
    mirror.start()
    _until(lambda: mirror.traffic.cycles >= 1)
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").touch()
    _until(lambda: mirror.fault is not None)
    with pytest.raises(Incomplete) as lost:
        mirror.close()
    said = str(lost.value)
    assert f"{tmp_path / 'local'}, which is kept" in said and f"loss-search resume {out}" in said


def test_a_bug_in_the_mirror_is_a_fault_and_not_silence(out, tmp_path):
    mirror = mirror_of(tmp_path, out, every_s=0.05)
    (tmp_path / "local" / "a\tname.json").touch()  # no name for an object
    mirror.start()
    _until(lambda: mirror.fault is not None)
    assert "cannot be kept up to date" in str(mirror.fault)


def _until(true) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------------- two drivers
def test_of_many_that_try_at_once_at_most_one_holds_the_run(out):
    store, held, start = out.store, [], threading.Barrier(8)

    def attempt() -> None:
        lock = StoreLock(store, "x")
        start.wait()
        try:
            lock.acquire()
        except BadInput:
            return
        held.append(lock)

    for _ in range(10):
        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(held) <= 1
        for lock in held:
            lock.release()
        held.clear()
        assert store.list("lock") == {}


def test_a_lock_of_a_dead_process_of_this_machine_and_a_stale_one_are_taken_over(out, tmp_path):
    import os
    import subprocess
    import sys

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    first = StoreLock(out.store, "x")
    first.acquire()
    about = json.loads(out.store.get(first.name))
    out.store.put(first.name, json.dumps({**about, "pid": dead.pid}).encode())
    second = StoreLock(out.store, "x")
    second.acquire()
    path = tmp_path / "store" / second.name
    path.write_text(json.dumps({**about, "boot": "another machine"}))
    with pytest.raises(BadInput, match="its lock ends in"):
        StoreLock(out.store, "x").acquire()
    os.utime(path, (time.time() - STALE_S - 1,) * 2)
    third = StoreLock(out.store, "x")
    third.acquire()
    third.renew()
    with pytest.raises(Incomplete, match="has taken this run over"):
        second.renew()
    assert set(out.store.list("lock")) == {third.name}


def test_a_lock_is_renewed_also_while_nothing_is_mirrored(out, monkeypatch):
    monkeypatch.setattr(store_lock, "BEAT_S", 0.05)
    lock = StoreLock(out.store, "x")
    lock.acquire()
    before = out.store.list("lock")[lock.name].written
    _until(lambda: out.store.list("lock")[lock.name].written > before)
    lock.release()
    time.sleep(0.2)
    assert out.store.list("lock") == {}
