"""trainables/trial_storage.py: a trial's files in a folder of a store, behind the training."""

from __future__ import annotations

import tempfile
import time

import pytest
from families import bits, by_name, engine_of, job, run
from s3_server import BUCKET, S3Server

from trainables import trial_storage
from trainables.object_store import ObjectStore
from trainables.trial_files import TrialFiles, read_last
from trainables.trial_storage import StoredTrial, TrialStorage, settle, storage_of


@pytest.fixture(autouse=True)
def _scratch_of_trials(tmp_path, monkeypatch):
    """What trials keep on this machine goes with the test."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


@pytest.fixture
def store(tmp_path):
    return ObjectStore(f"file://{tmp_path}/store")


def test_a_path_is_a_directory_and_a_uri_a_folder_of_a_store(tmp_path):
    assert type(storage_of(str(tmp_path))) is TrialStorage
    assert type(storage_of(f"file://{tmp_path}/store/trials/0")) is StoredTrial


def test_another_engine_finds_what_was_kept(store):
    first, second = StoredTrial(store.uri_of("trials/0")), StoredTrial(store.uri_of("trials/0"))
    (first.directory / "last.pt").write_bytes(b"state")
    first.keep("last.pt")
    assert first.directory != second.directory
    assert second.bring("last.pt").read_bytes() == b"state" and second.bring("other.pt") is None


def test_a_removed_file_is_gone_for_everyone(store):
    trial = StoredTrial(store.uri_of("trials/0"))
    (trial.directory / "last.pt").write_bytes(b"state")
    trial.keep("last.pt")
    trial.remove("last.pt")
    settle()
    assert store.list() == {} and trial.bring("last.pt") is None


def test_the_directory_in_front_goes_when_its_files_are_in_the_store(store):
    trial = StoredTrial(store.uri_of("trials/0"))
    (trial.directory / "model.pt").write_bytes(b"model")
    trial.keep("model.pt")
    trial.close()
    settle()
    assert store.get("trials/0/model.pt") == b"model" and not trial.directory.exists()


def test_a_trial_goes_on_to_the_bit_in_an_engine_that_shares_nothing_but_the_store(store):
    case = by_name("tiny")
    settings = {"family": case.family.name, "static": case.full_static, "version": "1"}
    unbroken = run(engine_of(case, 1, {0: job(case, 0)}), 4)[0]
    first = engine_of(case, 1, {0: job(case, 0)})
    reports = run(first, 2)[0]
    TrialFiles(StoredTrial(store.uri_of("trials/0")), "1").save_last(first, 0, reports[-1])
    elsewhere = StoredTrial(store.uri_of("trials/0"))
    second = engine_of(case, 1, {})
    second.admit(job(case, 0), 0, read_last(elsewhere, **settings))
    assert bits(run(second, 2)[0]) == bits(unbroken[2:])
    elsewhere.bring("run.log")
    files = TrialFiles(elsewhere, "1")
    files.finish(second, 0)
    files.storage.close()
    settle()
    picture = case.family.picture.name
    assert set(store.list("trials/0")) == {
        f"trials/0/{name}"
        for name in (
            "model.pt",
            "run.log",
            "facts/best.json",
            "figures/vectors_best.png",
            f"figures/{picture}_best.png",
            f"figures/{picture}_epoch_2.png",
        )
    }
    log = store.get("trials/0/run.log").decode().splitlines()
    assert f"Saved: {store.uri}/trials/0/figures/{picture}_epoch_2.png" in log[0]
    assert "ends after epoch 4" in log[-1] and not elsewhere.directory.exists()


def test_a_machine_whose_credentials_are_refused_is_found_at_once(monkeypatch):
    with S3Server(check_permissions=True) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        trial = StoredTrial(f"s3://{BUCKET}/trials/0")
        begun = time.monotonic()
        with pytest.raises(OSError, match="asked from") as refused:
            trial.bring("last.pt")
        assert time.monotonic() - begun < 30 and refused.value.filename == f"s3://{BUCKET}/trials/0"


def test_a_store_that_is_away_is_tried_again_in_the_same_order(store, tmp_path, caplog):
    trial = StoredTrial(store.uri_of("trials/0"))
    blocked = tmp_path / "store"
    blocked.write_bytes(b"")  # a file where the store's directory should be: nothing can be written
    for name in ("model.pt", "facts.json"):
        (trial.directory / name).write_text(name)
        trial.keep(name)
    trial.remove("model.pt")
    (trial.directory / "facts.json").write_text("newer")
    trial.keep("facts.json")
    assert not settle(0.3)
    blocked.unlink()
    settle()
    assert {name: store.get(name) for name in store.list()} == {"trials/0/facts.json": b"newer"}


def test_a_store_that_stays_away_is_an_error_for_the_engine(store, tmp_path, monkeypatch):
    monkeypatch.setattr(trial_storage, "AWAY_S", 0.2)
    trial = StoredTrial(store.uri_of("trials/0"))
    blocked = tmp_path / "store"
    blocked.write_bytes(b"")
    (trial.directory / "model.pt").write_text("x")
    trial.keep("model.pt")
    assert not settle(0.8)
    with pytest.raises(OSError, match="not reachable for"):
        trial.keep("model.pt")
    blocked.unlink()
    settle()
