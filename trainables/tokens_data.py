"""Events of token lists: a user's rows of 92 columns, and synthetic ones with a real MET-token relation.

A row is 18 type ids | MET | METphi | 18 x (E, pT, eta, phi), padded with 0 after its last token. T, the
slots that are kept, is the largest number of tokens in an event. What a model sees is standardised with the
training split's statistics: over its tokens for E, pT (logarithms) and eta, over its events for the globals.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.class_weights import absent_classes
from trainables.data import SPLIT_FIELDS, SPLITS, Field, checked_arrays, split_column
from trainables.errors import BadData

__all__ = ["EVENT_FIELDS", "FEATURES", "FEWEST_TYPES", "GLOBALS", "MOST_TYPES", "Events", "event_file"]
__all__ += ["synthetic_events"]

SLOTS = 18
COLUMNS = SLOTS + 2 + 4 * SLOTS
FEATURES = ("log E", "log pT", "eta", "sin phi", "cos phi")  # of a token; the first three standardised
GLOBALS = ("MET", "sin METphi", "cos METphi")  # of an event; all standardised
KINEMATICS = ("E", "pT", "eta", "phi")

EVENT_FIELDS = {
    "X": Field(
        ("float",),
        ("N", COLUMNS),
        help="18 type ids (0 pads the end) | MET | METphi | 18 x (E, pT, eta, phi); GeV and radians",
    ),
    "type_names": Field(
        ("text",), ("types",), required=False, help="names of the ids from 0 (pad) on; none is larger"
    ),
    **SPLIT_FIELDS,
}

# The synthetic source: name, share of tokens, mean and spread of log(pT / GeV), spread of eta, and of
# log(E / (pT cosh eta)), which is the mass of a jet. Shares and sizes are like those of CMS events with jets
# and muons: of the first seven types the rarest has one token in a hundred. Those after them are what a finer
# identification would add, down to one token in 180: with more types than a small codebook can give codes of
# their own, the weights decide which types are told apart.
TYPES = (
    ("jet", 0.42, 4.05, 0.50, 1.30, 0.010),
    ("bjet", 0.11, 4.30, 0.40, 1.00, 0.020),
    ("e+", 0.012, 3.60, 0.55, 1.15, 0.0),
    ("e-", 0.012, 3.60, 0.55, 1.15, 0.0),
    ("mu-", 0.195, 3.80, 0.45, 1.10, 0.0),
    ("mu+", 0.221, 3.80, 0.45, 1.10, 0.0),
    ("photon", 0.03, 3.20, 0.60, 1.60, 0.0),
    ("c-jet", 0.05, 4.10, 0.45, 1.10, 0.015),
    ("forward jet", 0.02, 3.60, 0.40, 2.20, 0.010),
    ("tau+ jet", 0.01, 3.70, 0.45, 1.10, 0.005),
    ("tau- jet", 0.01, 3.70, 0.45, 1.10, 0.005),
    ("loose muon", 0.01, 3.50, 0.50, 1.30, 0.0),
    ("loose electron", 0.006, 3.40, 0.55, 1.40, 0.0),
    ("converted photon", 0.006, 3.20, 0.60, 1.30, 0.0),
)
FEWEST_TYPES, MOST_TYPES = 7, len(TYPES)
TOKENS_AN_EVENT = (0.14, 0.32, 0.28, 0.14, 0.07, 0.03, 0.012, 0.005, 0.003)  # 1 to 9


class Events(NamedTuple):
    """`splits[split]`: `types` i64[N, T] (0 .. C - 1, -1 pads), `features` f32[N, T, 5] (0 in padding),
    `globals` f32[N, 3] and `event` i64[N], a number for each. `facts`: `counts` f64[C], training tokens by
    type, and `type_names`.
    """

    splits: dict[str, dict[str, Tensor]]
    facts: dict[str, Any]
    warnings: list[str]


def event_file(path: str | os.PathLike[str] | None) -> Events:
    """A user's events from an npz file of `EVENT_FIELDS`. Raises BadData where it is not so."""
    if not path:
        raise BadData("data.source file: data.path is not set; give the path of an npz file")
    arrays = checked_arrays(path, wanted=EVENT_FIELDS)
    split, found = split_column(path, arrays)
    rows = arrays["X"].astype(np.float64)
    names = arrays["type_names"].tolist() if "type_names" in arrays else None
    ids, met, kinematics = _columns(rows)
    _check_ids(path, ids, names)
    _check_numbers(path, ids, met, kinematics)
    largest = int(ids.max())
    names = names[1:] if names else [f"type {number}" for number in range(1, largest + 1)]
    train = {row.tobytes() for row in rows[split == 0]}
    again = sum(row.tobytes() in train for row in rows[split != 0])
    if again:
        found.append(f"{path}: {again} events of val and test also occur in train: their scores are too high")
    events = _as_events(str(path), ids.astype(np.int64), met, kinematics, split, names)
    return events._replace(warnings=found + events.warnings)


def _columns(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows f[N, 92] -> ids f[N, 18], (MET, METphi) f[N, 2], (E, pT, eta, phi) f[N, 18, 4]."""
    return rows[:, :SLOTS], rows[:, SLOTS : SLOTS + 2], rows[:, SLOTS + 2 :].reshape(len(rows), SLOTS, 4)


def _check_ids(path: str | os.PathLike[str], ids: np.ndarray, names: list[str] | None) -> None:
    """Ids are whole, in range, and all of an event's stand before its padding."""
    if names is not None and len(names) < 2:
        raise BadData(
            f"{path}: 'type_names' holds {names}; it names the ids from 0 on, padding first: two or more"
        )
    most = len(names) - 1 if names else np.inf
    allowed = f"0 (pad) to {most}, as 'type_names' has {most + 1} names" if names else "0 (pad), 1, 2, ..."
    _refuse(path, (ids != np.round(ids)) | (ids < 0) | (ids > most), ids, "column", "type id", allowed)
    gap = np.zeros_like(ids, dtype=bool)
    gap[:, 1:] = (ids[:, 1:] > 0) & (ids[:, :-1] == 0)
    _refuse(path, gap, ids, "column", "type id", "none after padding: move an event's tokens to the front")
    empty = (ids == 0).all(1)
    if empty.any():
        raise BadData(f"{path}: 'X' row {int(empty.argmax())} has no token (all ids are 0); leave it out")


def _check_numbers(
    path: str | os.PathLike[str], ids: np.ndarray, met: np.ndarray, kinematics: np.ndarray
) -> None:
    """Energies and momenta have logarithms, angles are radians, and padding is 0 throughout."""
    real = ids > 0
    for number, name in enumerate(KINEMATICS):
        values = kinematics[..., number]
        _refuse(path, ~real & (values != 0), values, "slot", name, "0 where the type id is 0 (padding)")
    for number, name in enumerate(KINEMATICS[:2]):
        values = kinematics[..., number]
        _refuse(path, real & (values <= 0), values, "slot", name, "numbers above 0, in GeV")
    turn = 2 * math.pi + 1e-3  # from -pi on or from 0 on, and rounded
    phi = kinematics[..., 3]
    _refuse(path, np.abs(phi) > turn, phi, "slot", "phi", "radians, at most 2 pi either way")
    _refuse(path, met[:, :1] < 0, met[:, :1], "", "MET", "numbers from 0 on, in GeV")
    _refuse(path, np.abs(met[:, 1:]) > turn, met[:, 1:], "", "METphi", "radians, at most 2 pi either way")


def _refuse(
    path: str | os.PathLike[str], wrong: np.ndarray, values: np.ndarray, axis: str, what: str, allowed: str
) -> None:
    """Raises BadData for the first entry of `values` [N, ...] that is `wrong`."""
    if wrong.any():
        row, place = np.argwhere(wrong)[0].tolist()
        where = f" at {axis} {place}" if axis else ""
        raise BadData(f"{path}: 'X' row {row} has {what} {values[row, place]:g}{where}; allowed: {allowed}")


def synthetic_events(size: int, *, invisible: float, seed: int, types: int = FEWEST_TYPES) -> Events:
    """Random events of one to nine tokens, whose MET is what their momenta leave unbalanced.

        (MET cos METphi, MET sin METphi) = -(sum over tokens of pT (cos phi, sin phi)) + noise

    Args:
        size: number of training events; val and test have an eighth of it each.
        invisible: standard deviation of each component of the noise, GeV; the larger, the less the tokens say
            about the globals.
        seed: the same seed, the same events; each split draws from a stream of its own.
        types: how many types of token there are, `FEWEST_TYPES` to `MOST_TYPES`; the further, the rarer.
    """
    counts = (size, max(1, size // 8), max(1, size // 8))
    parts = [
        _drawn(count, TYPES[:types], invisible, np.random.default_rng([seed, number]))
        for number, count in enumerate(counts)
    ]
    ids, met, kinematics = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    names = [name for name, *_ in TYPES[:types]]
    return _as_events("data.source synthetic", ids, met, kinematics, np.repeat(np.arange(3), counts), names)


def _drawn(
    count: int, types: Sequence[tuple], invisible: float, draw: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """ids i64[count, 9], (MET, METphi) f[count, 2] and (E, pT, eta, phi) f[count, 9, 4], pT falling."""
    most = len(TOKENS_AN_EVENT)
    odds, log_pt, log_pt_spread, eta_spread, mass = np.array([row[1:] for row in types]).T
    shape = (count, most)
    lengths = draw.choice(np.arange(1, most + 1), (count, 1), p=TOKENS_AN_EVENT)
    kind = draw.choice(len(types), shape, p=odds / odds.sum())
    pt = np.exp(log_pt[kind] + log_pt_spread[kind] * draw.standard_normal(shape))
    eta = (eta_spread[kind] * draw.standard_normal(shape)).clip(-3, 3)
    phi = draw.uniform(-math.pi, math.pi, shape)
    energy = pt * np.cosh(eta) * np.exp(mass[kind] * np.abs(draw.standard_normal(shape)))
    real = np.arange(most) < lengths
    order = np.argsort(np.where(real, -pt, np.inf), axis=1, kind="stable")
    kinematics = np.stack([energy, pt, eta, phi], -1) * real[..., None]
    kinematics = np.take_along_axis(kinematics, order[..., None], 1)
    ids = np.take_along_axis((kind + 1) * real, order, 1)
    missing = -kinematics[..., 1:2] * np.stack([np.cos(kinematics[..., 3]), np.sin(kinematics[..., 3])], -1)
    x, y = (missing.sum(1) + invisible * draw.standard_normal((count, 2))).T
    return ids, np.stack([np.hypot(x, y), np.arctan2(y, x)], -1), kinematics


def _as_events(
    place: str,
    ids: np.ndarray,
    met: np.ndarray,
    kinematics: np.ndarray,
    split: np.ndarray,
    names: list[str],
) -> Events:
    """Standardised events by split, and what the training split says; refused with one type alone."""
    slots = int((ids > 0).sum(1).max())
    types, kinematics = ids[:, :slots] - 1, kinematics[:, :slots]
    real, train = types >= 0, split == 0
    counts = np.bincount(types[train][real[train]], minlength=len(names))
    if (counts > 0).sum() < 2:
        alone = names[int(counts.argmax())]
        raise BadData(f"{place}: the training tokens are all of type {alone!r}; two types or more are needed")
    energy, pt, eta, phi = np.where(real[..., None], kinematics, 1.0).transpose(2, 0, 1)
    scaled = [_standardised(values, real & train[:, None]) for values in (np.log(energy), np.log(pt), eta)]
    features = np.where(real[..., None], np.stack([*scaled, np.sin(phi), np.cos(phi)], -1), 0.0)
    size, angle = met.T
    globals_ = [_standardised(values, train) for values in (size, np.sin(angle), np.cos(angle))]
    arrays = {
        "types": types.astype(np.int64),
        "features": features.astype(np.float32),
        "globals": np.stack(globals_, -1).astype(np.float32),
        "event": np.arange(len(types)),
    }
    splits = {
        name: {key: torch.from_numpy(array[split == number]) for key, array in arrays.items()}
        for number, name in enumerate(SPLITS)
    }
    facts = {"counts": torch.from_numpy(counts).double(), "type_names": tuple(names)}
    absent = [names[number] for number in absent_classes(facts["counts"])]
    notes = (
        [f"{place}: no training token has the type {', '.join(absent)}: their weight is 0"] if absent else []
    )
    return Events(splits, facts, notes)


def _standardised(values: np.ndarray, used: np.ndarray) -> np.ndarray:
    """`values` minus the mean of those in `used`, over their standard deviation; a constant becomes 0."""
    spread = values[used].std()
    return (values - values[used].mean()) / (spread if spread > 0 else 1.0)
