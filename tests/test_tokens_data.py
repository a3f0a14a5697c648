"""Events are checked before they are believed, scaled by their training split; synthetic ones add up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.errors import BadData
from trainables.tokens import TOKENS
from trainables.tokens_data import EVENT_FIELDS, event_file, synthetic_events

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "tokens" / "cms_hep_tutorial.npz"
NAMES = np.array(["pad", "jet", "mu"])


def _rows() -> np.ndarray:
    """Six events f32[6, 92] of one to three tokens of two types."""
    rows = np.zeros((6, 92), np.float32)
    ids = [[1], [2, 1], [1, 1, 2], [2], [1, 2], [2, 2, 1]]
    draw = np.random.default_rng(0)
    for row, tokens in zip(rows, ids, strict=True):
        row[: len(tokens)] = tokens
        row[18:20] = draw.uniform(1, 3, 2)
        for slot in range(len(tokens)):
            row[20 + 4 * slot : 24 + 4 * slot] = draw.uniform(1, 3, 4)
    return rows


def _saved(tmp_path: Path, rows: np.ndarray, **changes: Any) -> Path:
    arrays = {"X": rows, "split": np.array([0, 0, 0, 0, 1, 2]), "type_names": NAMES} | changes
    np.savez(tmp_path / "events.npz", **{name: array for name, array in arrays.items() if array is not None})
    return tmp_path / "events.npz"


# ---- files


def test_a_file_becomes_tokens_with_logarithms_angles_and_globals(tmp_path: Path):
    rows = _rows()
    events = event_file(_saved(tmp_path, rows))
    assert {name: len(split["types"]) for name, split in events.splits.items()} == {
        "train": 4, "val": 1, "test": 1
    }  # fmt: skip
    assert events.facts["type_names"] == ("jet", "mu")
    assert events.facts["counts"].tolist() == [4, 3]
    val = events.splits["val"]
    assert val["types"].tolist() == [[0, 1, -1]], "three slots, for the longest event has three tokens"
    tokens = [(row, slot) for row in range(4) for slot in range(3) if rows[row, slot] > 0]
    parts = np.array([rows[row, 20 + 4 * slot : 24 + 4 * slot] for row, slot in tokens], np.float64)
    for column, transform in enumerate((np.log, np.log, lambda eta: eta)):
        known = transform(parts[:, column])
        for slot in range(2):
            value = transform(np.float64(rows[4, 20 + 4 * slot + column]))
            expected = (value - known.mean()) / known.std()
            assert val["features"][0, slot, column] == pytest.approx(expected, rel=1e-5)
    phi = rows[4, 23]
    torch.testing.assert_close(val["features"][0, 0, 3:].numpy(), np.array([np.sin(phi), np.cos(phi)]))
    assert not val["features"][0, 2].any()
    met = rows[:4, 18].astype(np.float64)
    assert val["globals"][0, 0] == pytest.approx((rows[4, 18] - met.mean()) / met.std(), rel=1e-5)
    sines = np.sin(rows[:4, 19].astype(np.float64))
    expected = (np.sin(rows[4, 19]) - sines.mean()) / sines.std()
    assert val["globals"][0, 1] == pytest.approx(expected, rel=1e-5)


def test_the_training_split_alone_sets_the_scale(tmp_path: Path):
    plain = event_file(_saved(tmp_path, _rows())).splits["train"]
    rows = _rows()
    rows[4:, 18] *= 50
    rows[4, 20:22] *= 50
    changed = event_file(_saved(tmp_path, rows)).splits["train"]
    assert all(torch.equal(plain[name], changed[name]) for name in plain)


def test_without_names_types_are_numbered_and_without_split_groups_are_hashed(tmp_path: Path):
    rows = np.tile(_rows(), (20, 1))
    rows[:, 18] += np.arange(120)
    groups = np.arange(120) // 2
    events = event_file(_saved(tmp_path, rows, type_names=None, split=None, group=groups))
    assert events.facts["type_names"] == ("type 1", "type 2")
    assert sum(len(split["types"]) for split in events.splits.values()) == 120
    where = {name: set((split["event"] // 2).tolist()) for name, split in events.splits.items()}
    assert not (
        where["train"] & where["val"] or where["train"] & where["test"] or where["val"] & where["test"]
    )


def _set(row: int, column: int, value: float) -> Callable[[np.ndarray], None]:
    def change(rows: np.ndarray) -> None:
        rows[row, column] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(1, 0, 3), r"'X' row 1 has type id 3 at column 0; allowed: 0 \(pad\) to 2, as .* 3 names"),
        (_set(1, 0, -1), "row 1 has type id -1 at column 0"),
        (_set(1, 0, 1.5), "row 1 has type id 1.5 at column 0"),
        (_set(0, 2, 1), "row 0 has type id 1 at column 2; allowed: none after padding"),
        (_set(3, 0, 0), "row 3 has no token"),
        (_set(2, 30, np.nan), "'X' row 2 holds nan"),
        (_set(2, 19, np.inf), "'X' row 2 holds inf"),
        (_set(2, 20, 0), "row 2 has E 0 at slot 0; allowed: numbers above 0"),
        (_set(2, 25, -4), "row 2 has pT -4 at slot 1"),
        (_set(2, 27, 90), "row 2 has phi 90 at slot 1; allowed: radians"),
        (_set(0, 40, 2), "row 0 has E 2 at slot 5; allowed: 0 where the type id is 0"),
        (_set(0, 42, 2), "row 0 has eta 2 at slot 5"),
        (_set(5, 18, -1), "row 5 has MET -1; allowed: numbers from 0 on"),
        (_set(5, 19, 180), "row 5 has METphi 180; allowed: radians"),
    ],
)
def test_what_no_event_can_hold_is_refused_with_its_place(tmp_path: Path, change: Callable, said: str):
    rows = _rows()
    change(rows)
    with pytest.raises(BadData, match=said):
        event_file(_saved(tmp_path, rows))


def test_files_that_are_something_else_are_refused(tmp_path: Path):
    with pytest.raises(BadData, match=r"data\.path is not set"):
        event_file(None)
    with pytest.raises(BadData, match=r"shape \[6, 91\], but must be \[N, 92\]"):
        event_file(_saved(tmp_path, _rows()[:, :91]))
    with pytest.raises(BadData, match=r"'type_names' holds \['pad'\]"):
        event_file(_saved(tmp_path, _rows(), type_names=NAMES[:1]))
    with pytest.raises(BadData, match="neither 'split'"):
        event_file(_saved(tmp_path, _rows(), split=None))
    one_type = _rows()
    one_type[:, :18] = one_type[:, :18] > 0
    with pytest.raises(BadData, match="all of type 'jet'"):
        event_file(_saved(tmp_path, one_type))


def test_a_type_that_training_never_sees_and_events_seen_twice_are_warned_of(tmp_path: Path):
    rows = _rows()
    rows[5, 0] = 3
    events = event_file(_saved(tmp_path, rows, type_names=np.array([*NAMES, "photon"])))
    assert any("photon" in warning and "weight is 0" in warning for warning in events.warnings)
    rows = _rows()
    rows[4] = rows[1]
    (warning,) = event_file(_saved(tmp_path, rows)).warnings
    assert "1 events of val and test also occur in train" in warning


def test_a_global_that_never_varies_is_zero_and_not_infinite(tmp_path: Path):
    rows = _rows()
    rows[:, 18] = 5
    splits = event_file(_saved(tmp_path, rows)).splits
    assert not any(split["globals"][:, 0].any() for split in splits.values())


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample file is not in this checkout")
def test_the_sample_file_is_what_its_makers_counted():
    settings = {name: setting.default for name, setting in TOKENS.data_settings.items()}
    data = TOKENS.load({"source": "file", "path": str(SAMPLE), **settings})
    sizes = {name: tuple(split["types"].shape) for name, split in data.splits.items()}
    assert sizes == {"train": (12933, 9), "val": (1617, 9), "test": (1617, 9)}
    counts = TOKENS.label_counts(data)["type (tokens)"]
    totals = {name: sum(by_split) for name, by_split in counts.items()}
    # Counted in the raw file by NumPy.
    assert totals == {
        "jet": 17763, "bjet": 4783, "e+": 492, "e-": 475, "mu-": 8088, "mu+": 9891, "photon": 1236
    }  # fmt: skip
    assert data.warnings == []


# ---- synthetic events


def _real(split: dict[str, torch.Tensor]) -> torch.Tensor:
    return split["types"] >= 0


def test_more_types_are_rarer_ones_and_the_first_seven_stay_as_they_are():
    few, many = (synthetic_events(8192, invisible=10.0, seed=0, types=types) for types in (7, 14))
    plain = synthetic_events(8192, invisible=10.0, seed=0)
    assert torch.equal(few.splits["train"]["features"], plain.splits["train"]["features"])
    counts = many.facts["counts"]
    assert many.facts["type_names"][:7] == few.facts["type_names"] and len(counts) == 14
    assert many.splits["train"]["types"].max() == 13 and not many.warnings
    shares = counts / counts.sum()
    assert shares[7:].max() < 0.06 and 0.004 < shares.min() < 0.008


def test_synthetic_events_repeat_by_seed_and_split_sizes_follow():
    one, same, other = (synthetic_events(512, invisible=10.0, seed=seed) for seed in (0, 0, 1))
    assert {name: len(split["event"]) for name, split in one.splits.items()} == {
        "train": 512, "val": 64, "test": 64
    }  # fmt: skip
    for name, split in one.splits.items():
        assert all(torch.equal(tensor, same.splits[name][key]) for key, tensor in split.items())
    assert not torch.equal(one.splits["train"]["features"], other.splits["train"]["features"])
    assert not torch.equal(one.splits["val"]["globals"], one.splits["test"]["globals"])


def test_synthetic_tokens_are_standardised_masked_and_imbalanced():
    train = synthetic_events(8192, invisible=10.0, seed=0).splits["train"]
    real = _real(train)
    assert train["types"].shape == (8192, 9) and real[:, 0].all()
    assert (real[:, :-1] | ~real[:, 1:]).all(), "tokens come before padding"
    assert not train["features"][~real].any()
    tokens = train["features"][real].double()
    torch.testing.assert_close(tokens[:, :3].mean(0), torch.zeros(3).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens[:, :3].std(0), torch.ones(3).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(tokens[:, 3:].square().sum(1), torch.ones(len(tokens)).double())
    globals_ = train["globals"].double()
    torch.testing.assert_close(globals_.mean(0), torch.zeros(3).double(), atol=1e-4, rtol=0)
    counts = torch.bincount(train["types"][real])
    assert len(counts) == 7 and counts.max() > 25 * counts.min() and counts.min() > 100


def test_synthetic_kinematics_depend_on_the_type_and_fall_in_momentum():
    train = synthetic_events(8192, invisible=10.0, seed=0).splits["train"]
    real, features = _real(train), train["features"]
    momentum = torch.where(real, features[..., 1], -torch.inf)
    assert (momentum[:, :-1] >= momentum[:, 1:]).all()
    means = [features[train["types"] == kind][:, 1].mean() for kind in range(7)]
    assert means[1] > means[0] > means[4] > means[6], "bjet, jet, mu-, photon"


@pytest.mark.parametrize(("invisible", "agreement"), [(0.0, 1.0), (10.0, 0.9), (200.0, None)])
def test_synthetic_met_is_what_the_tokens_leave_unbalanced(invisible: float, agreement: float | None):
    """Momenta are read back through the scales, which a fit of log pT and of MET recovers."""
    from trainables import tokens_data

    ids, met, kinematics = tokens_data._drawn(
        4096, tokens_data.TYPES[:7], invisible, np.random.default_rng(0)
    )
    energy, pt, eta, phi = kinematics.transpose(2, 0, 1)
    assert (ids > 0).any(1).all() and not kinematics[ids == 0].any()
    assert (energy[ids > 0] >= (pt * np.cosh(eta))[ids > 0] * (1 - 1e-12)).all()
    x, y = -(pt * np.cos(phi)).sum(1), -(pt * np.sin(phi)).sum(1)
    found_x, found_y = met[:, 0] * np.cos(met[:, 1]), met[:, 0] * np.sin(met[:, 1])
    noise = np.stack([found_x - x, found_y - y])
    assert noise.std() == pytest.approx(invisible, rel=0.05, abs=1e-9)
    cosine = np.cos(met[:, 1] - np.arctan2(y, x)).mean()
    assert cosine < 0.5 if agreement is None else cosine >= agreement - 1e-9


def test_every_field_of_the_file_is_explained():
    assert set(EVENT_FIELDS) == {"X", "type_names", "split", "group"}
    assert all(field.help for field in EVENT_FIELDS.values())
