"""search/stored_run.py, search/fetching.py: runs in a store from start to end, read, lost and continued.

No Ray; the store is a local directory by `file://`, and in a few tests a real S3 server.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from s3_server import BUCKET, S3Server
from stored_runs import complaints, search, searching
from toy_run import play, toy_space

from search.cli import main
from search.errors import BadInput, Incomplete
from search.events import read_events
from search.fetching import Copy, fetch_run
from search.run import Run
from search.run_directory import RunDirectory
from search.standing import standing_of
from search.storage import Location, file_of, work_directory
from search.store_lock import STALE_S
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


# ---------------------------------------------------------------------- a run from start to end


def test_a_finished_run_lies_whole_in_the_store_and_nothing_of_it_stays_here(out, tmp_path):
    directory = search(out, tmp_path)
    assert not directory.path.parent.exists(), "nor the directory that held it"
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
    said = capsys.readouterr().out
    assert "is finished: there is nothing to continue" in said and f"loss-search fetch {run}" in said
    assert not work_directory(out.uri).exists(), "the working copy went, and nothing of it stays"


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


def test_a_search_whose_store_stays_away_stops_and_goes_on_from_the_copy_here(out, tmp_path):
    space = toy_space(tmp_path)
    directory = Run.create(space, out)
    with pytest.raises(Incomplete) as stopped, searching(directory, space) as run:
        mirror = directory.stored.mirror
        mirror.every_s, mirror.away_s = 0.05, 0.5
        play(run, 2)
        (tmp_path / "store").rename(tmp_path / "away")
        (tmp_path / "store").touch()
        play(run, 2)
        while run.fault is None:
            run.tick()
        assert run.interrupted
        raise run.fault
    assert f"{directory.path}, which is kept" in str(stopped.value) and directory.path.is_dir()
    (tmp_path / "store").unlink()
    (tmp_path / "away").rename(tmp_path / "store")
    shutil.rmtree(
        tmp_path / "store" / directory.name / "lock"
    )  # of this process, which stands for a dead one
    run = str(out / directory.name)
    with RunDirectory.held(run, Path("runs")) as again, again.locked(), Run(again, space) as resumed:
        assert len(resumed.trials) == 4
        play(resumed, 2)
        resumed.close()
    assert main(["check", run]) == 0 and not directory.path.exists()


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
    assert (aside / "study.journal").read_text() == "an old copy" and "the store knows more" in caplog.text


def test_a_copy_that_lost_its_end_with_the_power_is_made_again_from_the_store(out, tmp_path):
    space = toy_space(tmp_path)
    directory = Run.create(space, out)
    with pytest.raises(RuntimeError, match="power cut"), searching(directory, space) as run:
        play(run, 3)
        directory.stored.mirror.sync()
        events = directory.events.read_bytes()
        _power_cut(directory)
        raise AssertionError("not cut")
    _keep_working_copy(directory, out, events)
    _let_lock_of_a_dead_machine_age(tmp_path / "store", directory.name)
    with RunDirectory.held(str(out / directory.name), Path("runs")) as again:
        assert again.events.read_bytes() == events


def _keep_working_copy(directory: RunDirectory, out: Location, events: bytes) -> None:
    """What a disk has after the power came back: the end of the log was not on it yet."""
    copy = Copy(out.store.below(directory.name), directory.path)
    copy.refresh()
    directory.events.write_bytes(events[: len(events) // 2])
    session = out.store.get(f"{directory.name}/session").decode()
    directory.path.with_name(f"{directory.name}.session").write_text(session)


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


# ---------------------------------------------------------------------- fetch


def test_fetch_brings_a_run_home_that_commands_read(out, tmp_path, capsys):
    directory = search(out, tmp_path)
    engine = out.store.below(directory.name)
    for number in range(6):
        engine.put(f"trials/{number}/model.pt", b"model %d" % number)
    assert main(["fetch", str(out / directory.name), "--to", str(tmp_path / "home")]) == 0
    home = tmp_path / "home" / directory.name
    assert str(home) in capsys.readouterr().out
    assert main(["check", str(home)]) == 0
    models = {path.parent.name for path in home.glob("trials/*/model.pt")}
    (home / "notes.txt").write_text("of the user's own")
    assert models == {"0", "1", "2"}  # the presets, and the best
    assert not any(home.glob("lock")) and not any(home.glob("*.pieces"))
    assert fetch_run(str(out / directory.name), tmp_path / "home", everything=True)
    assert {path.parent.name for path in home.glob("trials/*/model.pt")} == set("012345")
    assert (home / "notes.txt").exists()


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
