"""A trial's row on disk: it continues to the bit elsewhere, and nothing torn, foreign or hostile is taken."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
from families import CASES, POISON, Case, bits, by_name, engine_of, ids, job, run, state_bits
from poisoned_family import ticket

from trainables import checkpoint
from trainables.errors import BadCheckpoint
from trainables.trial_files import TrialFiles, read_last

VERSION = "1.2.3"
every_family = pytest.mark.parametrize("case", CASES, ids=ids)


def _last(directory: Path, case: Case) -> dict:
    return read_last(directory, family=case.family.name, static=case.full_static, version=VERSION)


@every_family
def test_a_trial_continues_in_another_slot_of_a_fresh_engine_to_the_bit(case: Case, tmp_path: Path):
    unbroken = engine_of(case, 2, {0: job(case, 0), 1: job(case, 1)})
    expected = run(unbroken, 4)[0]
    first = engine_of(case, 2, {0: job(case, 0), 1: job(case, 1)})
    reports = run(first, 2)[0]
    TrialFiles(tmp_path, VERSION).save_last(first, 0, reports[-1])
    state = _last(tmp_path, case)
    assert (state["trial"], state["epoch"], state["report"]["epoch"]) == (0, 2, 2)
    second = engine_of(case, 2, {0: job(case, 30)})
    run(second, 1)
    member = second.admit(job(case, 0), 1, state)
    assert state_bits(second, 1) == state_bits(first, 0)
    assert (member.best_epoch, member.best_value) == (
        first.members[0].best_epoch,
        first.members[0].best_value,
    )
    assert torch.equal(member.best_row, first.members[0].best_row)
    assert bits(run(second, 2)[0]) == bits(expected[2:])
    assert state_bits(second, 1) == state_bits(unbroken, 0)
    assert second.members[1].best_epoch == unbroken.members[0].best_epoch
    assert torch.equal(second.members[1].best_row, unbroken.members[0].best_row)


def test_a_trial_without_a_best_epoch_and_a_diverged_one_are_restored_as_they_were(tmp_path: Path):
    poison = {"poison.ticket": ticket(1000, 0, 0, 0, batch_size=16, steps=4)}
    one = job(POISON, 0, **poison)
    engine = engine_of(POISON, 2, {0: one})
    run(engine, 1)
    checkpoint.save(engine.member_state(0), tmp_path / "last.pt")
    other = engine_of(POISON, 2, {})
    member = other.admit(one, 1, checkpoint.load(tmp_path / "last.pt"))
    assert member.diverged and member.best_row is None
    assert run(other, 1)[0][0].diverged
    assert state_bits(other, 1) == state_bits(engine, 0)


@every_family
def test_both_files_load_as_weights_only_and_the_best_model_fits_the_family(case: Case, tmp_path: Path):
    engine = engine_of(case, 2, {1: job(case, 1)})
    reports = run(engine, 2)[1]
    files = TrialFiles(tmp_path, VERSION)
    files.save_last(engine, 1, reports[-1])
    assert torch.load(tmp_path / "last.pt", weights_only=True)["epoch"] == 2
    picture = tmp_path / "figures" / f"{case.family.picture.name}_epoch_2.png"
    assert picture.stat().st_size > 0
    files.finish(engine, 1)
    best = torch.load(tmp_path / "model.pt", weights_only=True)
    model = case.family.build(case.full_static, case.load().facts)
    model.load_state_dict(best, strict=True)
    member = engine.members[1]
    facts = json.loads((tmp_path / "facts" / "best.json").read_text())
    assert facts["epoch"] == member.best_epoch
    assert facts["selection_accuracy"] == reports[member.best_epoch - 1].row["val.selection_accuracy"]
    assert not (tmp_path / "last.pt").exists()
    assert (tmp_path / "figures" / f"{case.family.picture.name}_best.png").exists()
    assert f"[VISUALIZATION] Saved: {picture}" in (tmp_path / "run.log").read_text()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_trial_without_a_finite_epoch_ends_without_a_model_and_says_so(tmp_path: Path):
    poison = {"poison.ticket": ticket(1000, 0, 0, 0, batch_size=16, steps=4)}
    engine = engine_of(POISON, 1, {0: job(POISON, 0, **poison)})
    reports = run(engine, 1)[0]
    files = TrialFiles(tmp_path, VERSION)
    files.save_last(engine, 0, reports[-1])
    files.finish(engine, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["facts", "figures", "run.log"]
    assert "without a best model" in (tmp_path / "run.log").read_text()


def test_a_finish_that_fails_leaves_a_trial_that_can_be_continued(tmp_path: Path):
    case = by_name("tiny")
    engine = engine_of(case, 1, {0: job(case, 0)})
    reports = run(engine, 1)[0]
    files = TrialFiles(tmp_path, VERSION)
    files.save_last(engine, 0, reports[-1])
    (tmp_path / "model.pt" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError):
        files.finish(engine, 0)
    assert _last(tmp_path, case)["epoch"] == 1


def test_facts_and_log_are_plain_even_when_a_number_is_not_finite(tmp_path: Path, caplog):
    case = by_name("beta_vae")
    engine = engine_of(case, 1, {0: job(case, 0)})
    run(engine, 1)
    engine.members[0].best_vectors = {"recall_per_colour": [0.5, float("nan")]}
    files = TrialFiles(tmp_path, VERSION)
    with caplog.at_level(logging.INFO, "loss_search.trial"):
        files.finish(engine, 0)
    assert json.loads((tmp_path / "facts" / "best.json").read_text())["recall_per_colour"] == [0.5, None]
    assert "trial 0 ends after epoch 1" in caplog.text


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A `last.pt` of the tiny family."""
    case, directory = by_name("tiny"), tmp_path_factory.mktemp("whole")
    engine = engine_of(case, 1, {0: job(case, 0)})
    TrialFiles(directory, VERSION).save_last(engine, 0, run(engine, 1)[0][-1])
    return (directory / "last.pt").read_bytes()


def test_a_file_cut_anywhere_is_refused(whole: bytes, tmp_path: Path):
    case, path = by_name("tiny"), tmp_path / "last.pt"
    step = max(1, len(whole) // 400)
    cuts = sorted({*range(0, len(whole), step), *range(12), *range(len(whole) - 30, len(whole))})
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(BadCheckpoint, match="last.pt: not a readable checkpoint"):
            _last(tmp_path, case)


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path: Path):
    """torch.load itself reads it without a word."""
    path = tmp_path / "model.pt"
    checkpoint.save({"weight": torch.zeros(5000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weight"].any()
    with pytest.raises(BadCheckpoint, match="checksum"):
        checkpoint.load(path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x02.", pickle.dumps([1]), b"a" * 5000])
def test_bytes_that_are_no_checkpoint_are_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint, match="not a readable checkpoint"):
        checkpoint.load(path)


def test_a_checkpoint_that_holds_no_dict_is_refused(tmp_path: Path):
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(BadCheckpoint, match="holds a list"):
        checkpoint.load(tmp_path / "last.pt")


class _Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["torch", "legacy", "bare"])
def test_code_in_a_checkpoint_is_never_executed(way: str, tmp_path: Path):
    path, target = tmp_path / "last.pt", tmp_path / "executed"
    content = {"format": 1, "epoch": _Hostile(target)}
    if way == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(BadCheckpoint):
        _last(tmp_path, by_name("tiny"))
    assert not target.exists()
    if way == "torch":
        torch.load(path, weights_only=False)
        assert target.exists(), "read without care, the file would have done it"


def test_a_checkpoint_of_another_version_family_or_static_setting_is_refused_with_both_named(
    whole: bytes, tmp_path: Path
):
    case = by_name("tiny")
    (tmp_path / "last.pt").write_bytes(whole)
    mine = {"family": "tiny", "static": case.full_static, "version": VERSION}
    assert read_last(tmp_path, **mine)["epoch"] == 1
    for change, both in (
        ({"version": "9.9.9"}, ("version '1.2.3'", "version '9.9.9'")),
        ({"family": "beta_vae"}, ("family 'tiny'", "family 'beta_vae'")),
        ({"static": {**case.full_static, "width": 5}}, ('"width": 4', '"width": 5')),
    ):
        with pytest.raises(BadCheckpoint) as caught:
            read_last(tmp_path, **{**mine, **change})
        assert all(part in str(caught.value) for part in both)


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, monkeypatch):
    case = by_name("tiny")
    engine = engine_of(case, 1, {0: job(case, 0)})
    TrialFiles(tmp_path, VERSION).save_last(engine, 0, None)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(BadCheckpoint, match=r"format 1, this engine has format 2"):
        _last(tmp_path, case)


def test_a_trial_that_has_no_checkpoint_yet_begins_anew(tmp_path: Path):
    assert _last(tmp_path, by_name("tiny")) is None


def test_a_save_that_fails_leaves_the_old_file_and_no_trace(tmp_path: Path):
    path = tmp_path / "last.pt"
    checkpoint.save({"epoch": 1}, path)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        checkpoint.save({"epoch": 2, "bad": lambda: None}, path)
    assert checkpoint.load(path) == {"epoch": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["last.pt"]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path):
    """A file that is open while it is replaced stays the old one: the new one is another inode."""
    path = tmp_path / "deep" / "last.pt"
    checkpoint.save({"epoch": 1}, path)
    with path.open("rb") as reader:
        checkpoint.save({"epoch": 2}, path)
        assert torch.load(reader, weights_only=True) == {"epoch": 1}
    assert checkpoint.load(path) == {"epoch": 2}
