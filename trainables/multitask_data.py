"""Examples with static features, several masked views and one label a task: synthetic, or a user's file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.class_weights import absent_classes
from trainables.data import SPLIT_FIELDS, SPLITS, Field, checked_arrays, class_counts, split_column
from trainables.errors import BadData

__all__ = ["FILE_FIELDS", "TASKS", "Examples", "example_file", "synthetic_arrays", "synthetic_examples"]

TASKS = ("action_class", "severity", "offence")

FILE_FIELDS = {
    "static": Field(("float",), ("N", "F"), help="features of the whole example"),
    "views": Field(("float",), ("N", "V", "G"), help="features of each of up to V views"),
    "view_mask": Field(("boolean",), ("N", "V"), help="which of the views are there"),
    **{
        task: Field(("integer",), ("N",), -1, 9999, help=f"class of the task {task} from 0, -1 where unknown")
        for task in TASKS
    },
    **{
        f"{task}_names": Field(
            ("text",),
            (f"classes of {task}",),
            required=False,
            help=f"names of the classes of {task}; without them their number is the largest label + 1",
        )
        for task in TASKS
    },
    **SPLIT_FIELDS,
    "match_id": Field(("integer", "text"), ("N",), required=False, help="another name for `group`"),
}

# The synthetic source. 8 classes of action, as SoccerNet's foul data has.
CLASSES = {"action_class": 8, "severity": 4, "offence": 2}
SEVERITY_SHARES = (0.80, 0.13, 0.05, 0.02)
OFFENCE_SHARES = (0.15, 0.85)
MISSING = {"action_class": 0.02, "severity": 0.10, "offence": 0.05}
FEATURES, VIEWS, VIEW_FEATURES, LATENT, GROUP_ROWS = 16, 4, 12, 6, 32


class Examples(NamedTuple):
    """`splits[split]`: static f32[N, F], views f32[N, V, G], view_mask bool[N, V], a task i64[N], -1 unknown.

    `facts`: `class_names` (list[str]) and `counts` (f64[C], training split) by task, sizes `num_features`,
    `num_views`, `num_view_features`.
    """

    splits: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    warnings: list[str]


def example_file(path: str | os.PathLike[str] | None) -> Examples:
    """A user's own examples, from an npz file with `FILE_FIELDS`.

    Raises:
        BadData: no path, or the file is not so, or a task has fewer than two classes in training.
    """
    if not path:
        raise BadData("data.source file: data.path is not set; give the path of an npz file")
    arrays = checked_arrays(path, wanted=FILE_FIELDS)
    if "match_id" in arrays:
        arrays.setdefault("group", arrays.pop("match_id"))
    split, found = split_column(path, arrays)
    for task in TASKS:
        _check_task(path, task, arrays, split)
    return _as_examples(str(path), arrays, split, found)


def _check_task(
    path: str | os.PathLike[str], task: str, arrays: Mapping[str, np.ndarray], split: np.ndarray
) -> None:
    """Every label has a name where names are given, and training rows show at least two classes."""
    label, names = arrays[task], arrays.get(f"{task}_names")
    if names is not None and label.max() >= len(names):
        row = int(label.argmax())
        raise BadData(
            f"{path}: {task!r} row {row} holds {label[row]}, but '{task}_names' has {len(names)} entries "
            f"(0 to {len(names) - 1}); name every class or correct the label"
        )
    seen = np.unique(label[(split == 0) & (label >= 0)])
    if len(seen) < 2:
        raise BadData(
            f"{path}: {task!r} has {len(seen)} classes among the training rows; a task needs two, labelled"
        )


def _as_examples(
    place: str, arrays: Mapping[str, np.ndarray], split: np.ndarray, warnings: list[str]
) -> Examples:
    """Features standardised by the training rows, rows dealt out to their splits, classes counted."""
    train, mask = split == 0, arrays["view_mask"]
    static = _standardised(arrays["static"], arrays["static"][train])
    views = _standardised(arrays["views"], arrays["views"][train][mask[train]])
    columns = {
        "static": torch.from_numpy(static),
        "views": torch.from_numpy(views * mask[..., None]),  # an absent view may hold anything
        "view_mask": torch.from_numpy(mask),
        **{task: torch.from_numpy(arrays[task].astype(np.int64)) for task in TASKS},
    }
    splits = {}
    for number, name in enumerate(SPLITS):
        rows = torch.from_numpy(np.flatnonzero(split == number))
        splits[name] = {key: column[rows] for key, column in columns.items()}
    names = {task: _class_names(task, arrays) for task in TASKS}
    counts = {task: _counts(splits["train"][task], len(names[task])) for task in TASKS}
    facts = {
        "class_names": names,
        "counts": counts,
        "num_features": static.shape[1],
        "num_views": views.shape[1],
        "num_view_features": views.shape[2],
    }
    for task in TASKS:
        if absent := [names[task][number] for number in absent_classes(counts[task])]:
            lost = "they get class weight 0 and cannot be learnt"
            warnings.append(f"{place}: {task} has no training example of {', '.join(absent)}; {lost}")
    return Examples(splits, facts, warnings)


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """f32, with mean 0 and deviation 1 over the rows of `train` [M, F].

    Columns that are 0 or 1 there stay as they are; of constant ones the mean is subtracted.
    """
    known = train.astype(np.float64)
    if len(known) == 0:  # no training row has a view
        return np.zeros_like(values, dtype=np.float32)
    binary = np.isin(known, (0.0, 1.0)).all(0)
    deviation = known.std(0)
    centre = np.where(binary, 0.0, known.mean(0))
    scale = np.where(binary | (deviation < 1e-12), 1.0, deviation)
    return ((values - centre) / scale).astype(np.float32)


def _class_names(task: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    names = arrays.get(f"{task}_names")
    return list(map(str, range(int(arrays[task].max()) + 1))) if names is None else names.tolist()


def _counts(label: Tensor, classes: int) -> Tensor:
    return class_counts(label[label >= 0], classes)


# ---- synthetic


def synthetic_examples(size: int, *, imbalance: float, noise: float, seed: int) -> Examples:
    """The examples of `synthetic_arrays`, ready to train on."""
    arrays = synthetic_arrays(size, imbalance=imbalance, noise=noise, seed=seed)
    return _as_examples("synthetic", arrays, *split_column("synthetic", arrays))


def synthetic_arrays(size: int, *, imbalance: float, noise: float, seed: int) -> dict[str, np.ndarray]:
    """Random "fouls": a rare action looks much like a common one, and a few say most about severity.

        action a    ~ geometric shares, the first `imbalance` times the last
        latent z    = centre_a + noise e,                         e ~ N(0, 1)[6]: classes overlap
        intensity u = effect_a + N(0, 1)                          severity: u cut at quantiles
        offence     : u + z_0 + noise N(0, 1) cut at a quantile
        static      = tanh([half of z, u + noise] M) + group shift + N(0, 1) / 4
        view        = clarity [z, u] M_v + N(0, 1) / 2, clarity; one view in four is clear

    So every task can only be learnt up to a point (Bayes accuracy below 1), tasks share what explains them,
    and attention can find the clear views. Rows of one group (a match) share a shift and lie in one split.

    Args:
        size: training examples; val and test get an eighth each.
        imbalance: ratio of the most frequent action class to the rarest in every split, up to rounding.
        noise: deviation of what hides the classes, against centres about 2.4 apart.
        seed: of all of it.

    Returns:
        What a file with `FILE_FIELDS` would hold.
    """
    sizes = (size, size // 8, size // 8)
    source = np.random.default_rng(seed)
    split = np.repeat(np.arange(3), sizes)
    total, rows_before = len(split), np.cumsum((0, *sizes[:-1]))[split]
    group = split * total + (np.arange(total) - rows_before) // GROUP_ROWS
    action = np.concatenate([_quota(count, imbalance, source) for count in sizes])
    centres = source.normal(size=(CLASSES["action_class"], LATENT)) * 0.7
    latent = centres[action] + noise * source.normal(size=(total, LATENT))
    intensity = source.normal(size=CLASSES["action_class"])[action] + source.normal(size=total)
    wrong = intensity + latent[:, 0] + noise * source.normal(size=total)
    labels = {
        "action_class": action,
        "severity": _cut(intensity, SEVERITY_SHARES),
        "offence": _cut(wrong, OFFENCE_SHARES),
    }
    for task, share in MISSING.items():
        labels[task] = np.where(source.random(total) < share, -1, labels[task])
    views, mask = _views(latent, intensity, source)
    static = _static(latent, intensity + noise * source.normal(size=total), group, source)
    names = {f"{task}_names": np.array([f"{task} {c}" for c in range(n)]) for task, n in CLASSES.items()}
    features = {"static": static, "views": views, "view_mask": mask}
    return {**features, **labels, **names, "split": split, "group": group}


def _quota(count: int, imbalance: float, source: np.random.Generator) -> np.ndarray:
    """Classes of `count` rows in random order, as near to their shares as can be, each at least once."""
    classes = CLASSES["action_class"]
    shares = imbalance ** -(np.arange(classes) / (classes - 1))
    numbers = 1 + np.floor((count - classes) * shares / shares.sum()).astype(int)
    numbers[0] += count - numbers.sum()
    return source.permutation(np.repeat(np.arange(classes), numbers))


def _cut(values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Classes 0, 1, ... by quantiles of `values`."""
    return np.searchsorted(np.quantile(values, np.cumsum(shares)[:-1]), values)


def _static(
    latent: np.ndarray, intensity: np.ndarray, group: np.ndarray, source: np.random.Generator
) -> np.ndarray:
    seen = np.column_stack([latent[:, : LATENT // 2], intensity])
    mixed = np.tanh(seen @ source.normal(size=(seen.shape[1], FEATURES)) / 2)
    _, number = np.unique(group, return_inverse=True)
    shift = source.normal(size=(number.max() + 1, FEATURES)) / 4
    return mixed + shift[number] + source.normal(size=mixed.shape) / 4


def _views(
    latent: np.ndarray, intensity: np.ndarray, source: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """f64[N, V, G], whose last feature is the clarity, and bool[N, V]: one row in fifty has no view."""
    total, seen = len(latent), np.column_stack([latent, intensity])
    mix = source.normal(size=(seen.shape[1], VIEW_FEATURES - 1)) / 2
    clarity = np.where(source.random((total, VIEWS)) < 0.25, 1.0, 0.2)
    shown = clarity[..., None] * (seen @ mix)[:, None]
    noisy = shown + source.normal(size=shown.shape) / 2
    there = source.integers(0, VIEWS + 1, total)
    there = np.where(source.random(total) < 0.9, np.maximum(there, 1), there)
    mask = np.arange(VIEWS) < there[:, None]
    return np.concatenate([noisy, clarity[..., None]], -1), mask
