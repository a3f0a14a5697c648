"""search/mirror.py, search/stored_run.py, search/fetching.py: runs in a store, without Ray.

Searches are played with made-up reports (`toy_run`); the store is a local directory by `file://`, and in a
few tests a real S3 server.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3_server import BUCKET, S3Server
from toy_run import play, toy_space

from search import mirror as mirroring
from search import storage
from search.cli import main
from search.errors import BadInput, Incomplete
from search.events import read_events
from search.fetching import Copy, fetch_run
from search.mirror import Mirror
from search.record import read_epochs
from search.record_check import check_record
from search.run import Run
from search.run_directory import RunDirectory
from search.space import Space
from search.standing import standing_of
from search.storage import STALE_S, Location, StoreLock, file_of, work_directory
from trainables.object_store import ObjectStore


@pytest.fixture(autouse=True)
def _own_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def server():
    with S3Server() as running:
        yield running


@pytest.fixture
def out(tmp_path) -> Location:
    return Location(f"file://{tmp_path}/store")


@contextmanager
def searching(directory: RunDirectory, space: Space) -> Iterator[Run]:
    """A run that is open, held and mirrored, as a search has it."""
    with directory.kept(), directory.locked(), Run(directory, space) as run:
        yield run


def search(out: Location, tmp_path: Path, trials: int = 6) -> RunDirectory:
    """A run in the store of which `trials` trials were played; with all six it is finished."""
    space = toy_space(tmp_path)
    directory = Run.create(space, out)
    with searching(directory, space) as run:
        play(run, trials)
        run.close()
    return directory


def complaints(path: Path, run: str) -> list[str]:
    """What a reader of the store as it is now would complain about."""
    copy = Copy(ObjectStore(f"file://{path}/{run}"), path.parent / "reader" / run)
    copy.refresh()
    directory = RunDirectory(copy.local)
    space = Run.stored_space(directory)
    standing = standing_of(directory, space)
    table = read_epochs(copy.local, found := [])
    stored = set(zip(table["trial"].to_pylist(), table["epoch"].to_pylist(), strict=True))
    known = {(e["row"]["trial"], e["row"]["epoch"]) for e in standing.events if e["kind"] == "reported"}
    found += [f"row {key} is in a table and not in the event log" for key in stored - known]
    events = [
        event
        for event in standing.events
        if event["kind"] != "reported" or (event["row"]["trial"], event["row"]["epoch"]) in stored
    ]
    return [*found, *standing.warnings, *check_record(copy.local, standing.trials, events)]


# ---------------------------------------------------------------------- a run from start to end


def test_a_finished_run_lies_whole_in_the_store_and_nothing_of_it_stays_here(out, tmp_path):
    directory = search(out, tmp_path)
    assert not directory.path.exists() and list(directory.path.parent.iterdir()) == []
    assert complaints(tmp_path / "store", directory.name) == []
    stored = out.store.below(directory.name).list()
    assert {"space.yaml", "environment.json", "trials.parquet", "epochs.parquet"} <= set(stored)
    assert not any(name.startswith(("epochs/", "lock/")) or name.endswith(".tmp") for name in stored)
    assert sum("tfevents" in name for name in stored) == 7  # six trials, and the table of hyperparameters


def test_commands_read_a_run_in_a_store(out, tmp_path, capsys):
    run = out / search(out, tmp_path).name
    assert main(["check", run.uri]) == 0
    assert f"{run}: whole; finished, 6 of 6 trials ended" in capsys.readouterr().out
    assert main(["show", run.name, "--out", out.uri]) == 0
    assert "finished, 6 of 6 trials ended" in capsys.readouterr().out
    assert main(["show", run.uri, "2"]) == 0
    assert f"{run}/trials/2/config.yaml" in capsys.readouterr().out
    assert main(["explain", run.uri, "2"]) == 0
    assert main(["export", run.uri, "--to", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "config.yaml").is_file()
    assert main(["resume", run.uri]) == 0
    assert "is finished: there is nothing to continue" in capsys.readouterr().out


def test_a_wrong_name_is_answered_with_the_runs_that_there_are(out, tmp_path, capsys):
    run = out / search(out, tmp_path).name
    for arguments in (["show", f"{run}x"], ["show", out.uri], ["resume", "other", "--out", out.uri]):
        assert main(arguments) == 2
        assert f"there is no run here; runs in {out}: {run.name}" in capsys.readouterr().err
    assert not work_directory(out.uri).exists() or not any(work_directory(out.uri).glob("*/*"))
    assert sorted(out.store.folders()) == [run.name]


def test_at_no_moment_does_the_store_tell_of_something_that_it_lacks(out, tmp_path, monkeypatch):
    """A reader looks after every single object that is written or removed."""
    moments = []
    space = toy_space(tmp_path)
    directory = Run.create(space, out)

    def looks(method):
        def after(self, name, *rest):
            method(self, name, *rest)
            if threading.current_thread().name.startswith("mirror"):
                return  # within a batch whose files do not refer to one another
            moments.append(name)
            assert complaints(tmp_path / "store", directory.name) == [], f"after {name}"

        return after

    with searching(directory, space) as run:
        directory.stored.mirror.sync()
        monkeypatch.setattr(ObjectStore, "put", looks(ObjectStore.put))
        monkeypatch.setattr(ObjectStore, "remove", looks(ObjectStore.remove))
        for _ in range(6):
            play(run, 1)
            run.flush()
            directory.stored.mirror.sync()
        run.close()
    assert sum(name.startswith("events.jsonl") for name in moments) >= 6 and "epochs.parquet" in moments


# ---------------------------------------------------------------------- losing the machine


@pytest.mark.parametrize("trials", [1, 3, 5])
def test_a_search_goes_on_from_what_the_store_had_when_the_machine_was_lost(out, tmp_path, trials):
    space = toy_space(tmp_path)
    directory = Run.create(space, out)
    with pytest.raises(RuntimeError, match="power cut"), searching(directory, space) as run:
        play(run, trials)
        run.flush()
        directory.stored.mirror.sync()
        acknowledged = len(read_events(directory.events)[0])
        _power_cut(directory)
    shutil.rmtree(tmp_path / "state")  # the disk is lost
    _let_lock_of_a_dead_machine_age(tmp_path / "store", directory.name)
    with RunDirectory.held(str(out / directory.name), Path("runs")) as again, again.locked():
        space = Run.stored_space(again)
        assert len(read_events(again.events)[0]) == acknowledged
        with Run(again, space) as run:
            play(run, 6 - trials)
            run.close()
    assert complaints(tmp_path / "store", directory.name) == []
    assert main(["check", str(out / directory.name)]) == 0


def _power_cut(directory: RunDirectory) -> None:
    """Nothing is uploaded any more, not even the end."""
    mirror = directory.stored.mirror
    mirror.close = lambda: None
    mirror.lock.release = lambda: None
    mirror._ending.set()
    raise RuntimeError("power cut")


def _let_lock_of_a_dead_machine_age(store: Path, run: str) -> None:
    import os

    for lock in (store / run / "lock").iterdir():
        about = {**json.loads(lock.read_text()), "boot": "another machine"}
        lock.write_text(json.dumps(about))
        old = time.time() - STALE_S - 1
        os.utime(lock, (old, old))


def test_a_killed_driver_on_a_living_machine_loses_nothing(out, tmp_path):
    """Its working copy is ahead of the store, and is taken up again."""
    space = toy_space(tmp_path)
    directory = Run.create(space, out)
    with pytest.raises(RuntimeError, match="killed"), searching(directory, space) as run:
        play(run, 3)
        events = read_events(directory.events)[0]
        ahead = shutil.copytree(directory.path, tmp_path / "ahead")
        session = directory.path.with_name(f"{directory.name}.session").read_text()
        behind = len(out.store.below(directory.name).list("trials"))
        raise RuntimeError("killed")
    shutil.copytree(ahead, directory.path)  # as the kill left it, and the store as it was before
    directory.path.with_name(f"{directory.name}.session").write_text(session)
    shutil.rmtree(tmp_path / "store" / directory.name / "trials")
    with RunDirectory.held(str(out / directory.name), Path("runs")) as again:
        assert read_events(again.events)[0] == events
        assert len(out.store.below(directory.name).list("trials")) > behind
    assert read_events(_read(out, directory).events)[0] == events


def _read(out: Location, directory: RunDirectory) -> RunDirectory:
    return RunDirectory.open(str(out / directory.name), Path("runs"))


def test_a_copy_that_another_machine_has_overtaken_is_kept_aside_and_not_used(out, tmp_path, caplog):
    directory = search(out, tmp_path, trials=2)
    directory.path.mkdir(parents=True)
    (directory.path / "study.journal").write_text("an old copy")
    directory.path.with_name(f"{directory.name}.session").write_text("another session")
    with RunDirectory.held(str(out / directory.name), Path("runs")) as again:
        assert "an old copy" not in again.journal.read_text()
    (aside,) = directory.path.parent.glob("*.old-*")
    assert (aside / "study.journal").read_text() == "an old copy" and "another machine" in caplog.text


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


def test_a_second_driver_is_refused_and_told_where_the_first_one_is(out, tmp_path):
    directory = search(out, tmp_path, trials=2)
    run = str(out / directory.name)
    refused = pytest.raises(BadInput, match=r"another loss-search \(process \d+ on .*\) works on this run")
    with RunDirectory.held(run, Path("runs")):
        with refused, RunDirectory.held(run, Path("runs")):
            raise AssertionError("two drivers")
        assert standing_of(_read(out, directory), toy_space(tmp_path)).running
    assert out.store.below(directory.name).list("lock") == {}
    assert not standing_of(_read(out, directory), toy_space(tmp_path)).running


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
    monkeypatch.setattr(storage, "BEAT_S", 0.05)
    lock = StoreLock(out.store, "x")
    lock.acquire()
    before = out.store.list("lock")[lock.name].written
    _until(lambda: out.store.list("lock")[lock.name].written > before)
    lock.release()
    time.sleep(0.2)
    assert out.store.list("lock") == {}


# ---------------------------------------------------------------------- fetch


def test_fetch_brings_a_run_home_that_commands_read(out, tmp_path, capsys):
    directory = search(out, tmp_path)
    engine = out.store.below(directory.name)
    for number in range(6):
        engine.put(f"trials/{number}/model.pt", b"model %d" % number)
    said = fetch_run(str(out / directory.name), tmp_path / "home")
    home = tmp_path / "home" / directory.name
    assert str(home) in said[0]
    assert main(["check", str(home)]) == 0
    models = {path.parent.name for path in home.glob("trials/*/model.pt")}
    assert models == {"0", "1", "2"}  # the presets, and the best
    assert not any(home.glob("lock")) and not any(home.glob("*.pieces"))
    assert fetch_run(str(out / directory.name), tmp_path / "home", everything=True)
    assert {path.parent.name for path in home.glob("trials/*/model.pt")} == set("012345")


def test_a_file_that_tensorboard_reads_grows_in_place(out, tmp_path):
    name = "trials/0/events.out.tfevents.1.host.2"
    for file in ("space.yaml", "environment.json", "trials.parquet"):
        out.store.put(file, b"")
    out.store.put(name, b"first")
    copy = Copy(out.store, tmp_path / "copy")
    copy.refresh(lambda name: True)
    with (tmp_path / "copy" / name).open("rb") as open_file:
        assert open_file.read() == b"first"
        out.store.put(name, b"first and second")
        copy.refresh(lambda name: True)
        assert open_file.read() == b" and second"


def test_a_configuration_in_a_store_is_read_by_its_uri(out, tmp_path):
    out.store.put("report/recommended.yaml", b"family: x")
    assert file_of(f"{out}/report/recommended.yaml").read_bytes() == b"family: x"
    assert file_of("report/recommended.yaml") == Path("report/recommended.yaml")
    with pytest.raises(BadInput, match="there is no such file"):
        file_of(f"{out}/report/other.yaml")


def test_a_read_copy_is_not_brought_twice(out, tmp_path, monkeypatch):
    directory = search(out, tmp_path)
    _read(out, directory)
    brought = []
    download = ObjectStore.download
    monkeypatch.setattr(
        ObjectStore, "download", lambda self, name, to: (brought.append(name), download(self, name, to))
    )
    _read(out, directory)
    assert not any("/" in name for name in brought)


# ---------------------------------------------------------------------- a real S3 server


def test_a_run_in_s3_is_searched_read_lost_and_continued(server, tmp_path, monkeypatch, capsys):
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    out = Location(f"s3://{BUCKET}/pre/fix")
    directory = search(out, tmp_path, trials=3)
    run = str(out / directory.name)
    assert main(["check", run]) == 3  # whole, and waits to be resumed
    with RunDirectory.held(run, Path("runs")) as again, again.locked():
        with Run(again, Run.stored_space(again)) as resumed:
            play(resumed, 3)
            resumed.close()
        with pytest.raises(BadInput, match="works on this run"), RunDirectory.held(run, Path("runs")):
            raise AssertionError("two drivers")
    assert main(["check", run]) == 0
    keys = {key: body for key, body in server.objects("pre/fix").items() if not key.endswith("/")}
    assert f"pre/fix/{directory.name}/trials.parquet" in keys and not any("lock/" in key for key in keys)
    secrets = (server.environment["AWS_SECRET_ACCESS_KEY"], server.environment["AWS_ACCESS_KEY_ID"])
    for secret in secrets:
        assert not [key for key, content in keys.items() if secret.encode() in content]
    capsys.readouterr()


@pytest.mark.parametrize(
    ("environment", "uri", "said"),
    [
        ({}, "s3://no-such-bucket/x", "there is no bucket 'no-such-bucket'"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, f"s3://{BUCKET}/x", "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_and_nothing_is_written(
    server, tmp_path, monkeypatch, capsys, environment, uri, said
):
    before = server.objects()
    for name, value in {**server.environment, **environment}.items():
        monkeypatch.setenv(name, value)
    path = toy_space(tmp_path) and tmp_path / "toy.yaml"
    assert main(["run", str(path), "--out", uri]) == 2
    captured = capsys.readouterr()
    assert said in captured.err and len(captured.err.strip().splitlines()) == 1
    assert not (tmp_path / "state").exists() and server.objects() == before


@pytest.mark.parametrize("missing", [True, False])
def test_credentials_that_are_missing_or_may_not_write_are_one_line(tmp_path, monkeypatch, capsys, missing):
    with S3Server(check_permissions=True) as server:
        monkeypatch.setenv("HOME", str(tmp_path))
        for name, value in server.environment.items():
            if not (missing and "KEY" in name):
                monkeypatch.setenv(name, value)
        path = toy_space(tmp_path) and tmp_path / "toy.yaml"
        assert main(["run", str(path), "--out", f"s3://{BUCKET}/x"]) == 2
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1 and "credentials" in error
        assert server.environment["AWS_SECRET_ACCESS_KEY"] not in error
