"""Examples of multitask: synthetic ones are as they are said to be, files are checked before believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression  # scikit-learn 1.9.1
from sklearn.preprocessing import StandardScaler

from trainables.errors import BadData
from trainables.multitask_data import (
    CLASSES,
    GROUP_ROWS,
    MISSING,
    TASKS,
    VIEWS,
    example_file,
    synthetic_arrays,
    synthetic_examples,
)

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "multitask" / "wyscout_fouls.npz"
SETTINGS = {"imbalance": 100.0, "noise": 1.0, "seed": 0}


def _written(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """A file of 320 training rows and 40 each of the others, as the synthetic source makes them."""
    arrays = {**synthetic_arrays(320, **SETTINGS), **changes}
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if name not in drop})
    return path


# ---- synthetic


def test_the_synthetic_source_repeats_with_its_seed_and_differs_with_another():
    first, again = (synthetic_examples(256, **SETTINGS) for _ in range(2))
    other = synthetic_examples(256, **{**SETTINGS, "seed": 1})
    for split, part in first.splits.items():
        for name, tensor in part.items():
            assert torch.equal(tensor, again.splits[split][name])
    assert not torch.equal(first.splits["train"]["static"], other.splits["train"]["static"])


def test_sizes_are_as_asked_with_an_eighth_each_for_validation_and_test():
    splits = synthetic_examples(1000, **SETTINGS).splits
    assert {split: len(part["static"]) for split, part in splits.items()} == {
        "train": 1000,
        "val": 125,
        "test": 125,
    }


@pytest.mark.parametrize("imbalance", [1.0, 10.0, 100.0, 400.0])
def test_the_imbalance_is_the_ratio_of_the_most_frequent_action_to_the_rarest(imbalance: float):
    arrays = synthetic_arrays(100_000, **{**SETTINGS, "imbalance": imbalance})
    counts = np.bincount(arrays["action_class"][arrays["action_class"] >= 0])
    assert len(counts) == CLASSES["action_class"]
    assert counts[0] / counts[-1] == pytest.approx(imbalance, rel=0.25)
    assert (np.diff(counts) <= 0.05 * counts[:-1]).all()


def test_every_class_of_action_is_in_every_split_of_even_a_small_set():
    arrays = synthetic_arrays(64, **{**SETTINGS, "imbalance": 1000.0})
    for split in range(3):
        labels = arrays["action_class"][arrays["split"] == split]
        assert len(np.unique(labels[labels >= 0])) >= CLASSES["action_class"] - 1  # 2 % have no label


def test_rows_of_a_group_lie_in_one_split_and_share_a_shift_that_others_do_not():
    arrays = synthetic_arrays(4096, **SETTINGS)
    groups, split = arrays["group"], arrays["split"]
    assert all(len(np.unique(split[groups == group])) == 1 for group in np.unique(groups))
    assert np.bincount(np.unique(groups, return_inverse=True)[1]).max() == GROUP_ROWS
    static = arrays["static"]
    means = np.stack([static[groups == group].mean(0) for group in np.unique(groups)[:100]])
    shuffled = static[np.random.default_rng(0).permutation(len(static))][: 100 * GROUP_ROWS]
    by_chance = shuffled.reshape(100, GROUP_ROWS, -1).mean(1)
    assert means.var(0).mean() > 2 * by_chance.var(0).mean()


def test_labels_are_missing_in_their_shares_and_views_in_a_run_at_the_end():
    arrays = synthetic_arrays(20_000, **SETTINGS)
    for task in TASKS:
        assert (arrays[task] == -1).mean() == pytest.approx(MISSING[task], abs=0.01)
    mask = arrays["view_mask"]
    seen = mask.sum(1)
    assert set(np.unique(seen)) == set(range(VIEWS + 1)), "rows without any view are there"
    assert (mask == (np.arange(VIEWS) < seen[:, None])).all()


def test_tasks_are_learnable_but_only_up_to_a_point_and_less_so_with_more_noise():
    """Logistic regression on the static features; a tree's height above it would not change the order."""
    scores = {}
    for noise in (0.2, 1.0, 4.0):
        arrays = synthetic_arrays(4096, **{**SETTINGS, "noise": noise, "imbalance": 1.0})
        train, val = ((arrays["split"] == split) & (arrays["action_class"] >= 0) for split in (0, 1))
        model = LogisticRegression(max_iter=300).fit(arrays["static"][train], arrays["action_class"][train])
        scores[noise] = model.score(arrays["static"][val], arrays["action_class"][val])
    assert 0.95 > scores[0.2] > scores[1.0] + 0.05 > scores[4.0] + 0.1
    assert scores[4.0] < 0.3 and scores[1.0] > 0.2, "chance is 0.125"


def test_the_tasks_are_correlated():
    arrays = synthetic_arrays(20_000, **SETTINGS)
    action, severity, offence = (arrays[task] for task in TASKS)
    known = (severity >= 0) & (offence >= 0)
    assert np.corrcoef(severity[known], offence[known])[0, 1] > 0.15
    known = (severity >= 0) & (action >= 0)
    means = [severity[known & (action == number)].mean() for number in range(CLASSES["action_class"])]
    assert max(means) > 2 * min(means)


# ---- files


def test_a_file_gives_what_the_synthetic_source_gives_when_it_holds_the_same(tmp_path: Path):
    read, made = example_file(_written(tmp_path / "a.npz")), synthetic_examples(320, **SETTINGS)
    for split, part in made.splits.items():
        for name, tensor in part.items():
            assert torch.equal(tensor, read.splits[split][name]), name
    assert read.facts["class_names"] == made.facts["class_names"] and read.warnings == []


def test_features_are_standardised_by_the_training_rows_alone(tmp_path: Path):
    arrays = synthetic_arrays(320, **SETTINGS)
    static = arrays["static"] * 7 + 3
    static[:, 0], static[:, 1] = 5.0, np.arange(len(static)) % 2  # constant; a flag
    found = example_file(_written(tmp_path / "a.npz", static=static.astype(np.float32)))
    train = arrays["split"] == 0
    scaler = StandardScaler().fit(static[train].astype(np.float32).astype(np.float64))
    expected = torch.from_numpy(scaler.transform(static)).float()
    for number, split in enumerate(("train", "val", "test")):
        rows = found.splits[split]["static"]
        torch.testing.assert_close(
            rows[:, 2:], expected[arrays["split"] == number][:, 2:], rtol=1e-4, atol=1e-4
        )
        assert not rows[:, 0].any()
        assert torch.equal(rows[:, 1].unique(), torch.tensor([0.0, 1.0]))


def test_views_are_standardised_over_those_that_are_there_and_the_others_are_zero(tmp_path: Path):
    arrays = synthetic_arrays(320, **SETTINGS)
    views = np.where(arrays["view_mask"][..., None], arrays["views"], 1e6)  # rubbish where no view is
    found = example_file(_written(tmp_path / "a.npz", views=views)).splits["train"]
    there = found["view_mask"]
    assert not found["views"][~there].any()
    torch.testing.assert_close(found["views"][there].mean(0), torch.zeros(views.shape[-1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        found["views"][there].std(0, correction=0), torch.ones(views.shape[-1]), atol=1e-3, rtol=0
    )


def test_a_file_in_which_no_training_row_has_a_view_can_be_read(tmp_path: Path):
    mask = np.zeros((400, VIEWS), bool)
    assert not example_file(_written(tmp_path / "a.npz", view_mask=mask)).splits["train"]["views"].any()


@pytest.mark.parametrize("name", ["match_id", "group"])
def test_without_a_split_rows_are_split_by_match(tmp_path: Path, name: str):
    matches = np.arange(400) // 4
    drop = ("split", "group") if name == "match_id" else ("split",)
    found = example_file(_written(tmp_path / "a.npz", drop=drop, **{name: matches}))
    static, where = synthetic_arrays(320, **SETTINGS)["static"], {}
    for split, part in found.splits.items():
        assert len(part["static"]) % 4 == 0
        where[split] = len(part["static"])
    assert sum(where.values()) == len(static) and where["train"] > 250 > where["val"] > 0


def test_a_match_in_two_splits_is_warned_of(tmp_path: Path):
    found = example_file(_written(tmp_path / "a.npz", drop=("group",), match_id=np.arange(400) % 10))
    assert len(found.warnings) == 1 and "10 groups lie in several splits" in found.warnings[0]


def test_classes_are_counted_in_training_without_missing_labels_and_named(tmp_path: Path):
    severity = np.full(400, -1)
    severity[:6] = [0, 0, 0, 2, 2, 1]
    names = np.array(["none", "yellow", "red", "black"])
    found = example_file(_written(tmp_path / "a.npz", severity=severity, severity_names=names))
    assert found.facts["counts"]["severity"].tolist() == [3, 1, 2, 0]
    assert found.facts["class_names"]["severity"] == names.tolist()
    assert len(found.warnings) == 1
    assert "severity has no training example of black" in found.warnings[0]


def test_without_names_there_are_as_many_classes_as_the_largest_label_says(tmp_path: Path):
    severity = np.arange(400) % 6
    found = example_file(_written(tmp_path / "a.npz", drop=("severity_names",), severity=severity))
    assert found.facts["class_names"]["severity"] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"severity": np.full(400, 4)}, "'severity' row 0 holds 4, but 'severity_names' has 4 entries"),
        ({"offence": np.zeros(400, int)}, "'offence' has 1 classes among the training rows"),
        ({"offence": np.full(400, -1)}, "'offence' has 0 classes among the training rows"),
        ({"severity": np.full(400, -2)}, "'severity' row 0 holds -2"),
        ({"view_mask": np.ones((400, VIEWS + 1), bool)}, "on axis V"),
        ({"static": np.full((400, 3), np.nan)}, "'static' row 0 holds nan"),
        ({"action_class": np.zeros(400)}, "'action_class' is float64, but must be integer"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_place_and_the_repair(
    tmp_path: Path, changes: dict[str, Any], complaint: str
):
    path = _written(tmp_path / "a.npz", **changes)
    with pytest.raises(BadData) as raised:
        example_file(path)
    assert complaint in str(raised.value) and str(path) in str(raised.value)


def test_a_missing_path_and_a_missing_field_are_named(tmp_path: Path):
    with pytest.raises(BadData, match="data.path is not set"):
        example_file(None)
    with pytest.raises(BadData, match="has no field 'views'"):
        example_file(_written(tmp_path / "a.npz", drop=("views",)))


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample file is not here")
def test_the_sample_file_holds_what_its_description_says():
    found = example_file(SAMPLE)
    assert {split: len(part["static"]) for split, part in found.splits.items()} == {
        "train": 47517,
        "val": 7140,
        "test": 5850,
    }
    names = found.facts["class_names"]
    assert [len(names[task]) for task in TASKS] == [13, 4, 2]
    counts = torch.bincount(torch.cat([part["action_class"] for part in found.splits.values()]))
    assert round((counts.max() / counts.min()).item()) == 421
    assert found.warnings == [] and names["severity"] == ["no_card", "yellow", "second_yellow", "red"]
    missing = sum((part["severity"] == -1).sum().item() for part in found.splits.values())
    assert missing == 9458
