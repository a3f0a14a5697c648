"""The families on which the laws of the engine are tested, small; and what those tests do with an engine.

A new family joins by a file of its own with a `Case` or two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import multitask_cases
import panels_cases
import selection_cases
import tokens_cases
import torch
from case import Case
from choosy_family import CHOOSY
from poisoned_family import POISONED
from tiny_family import TINY

from trainables.beta_vae import BETA_VAE
from trainables.engine import Engine
from trainables.member import Job, Report

__all__ = [
    "CASES",
    "Case",
    "POISON",
    "bits",
    "by_name",
    "engine_of",
    "ids",
    "job",
    "numbers",
    "run",
    "state_bits",
    "state_numbers",
]


_TINY_KNOBS = (
    {},
    {"penalty.weight": 3.0, "penalty.schedule": "linear", "optim.lr": 1e-3, "optim.clip": 0.05},
    {"penalty.weight": 1.0, "penalty.schedule": "delayed", "penalty.start": 0.5, "optim.lr": 0.05},
    {"penalty.weight": 0.0, "optim.clip": 1e6},
)
_CHOOSY_KNOBS = (
    {"rare.schedule": "adaptive", "optim.weight_decay": 0.1, **_TINY_KNOBS[1]},
    {"rare.floor": 100.0, "optim.schedule": "cosine", **_TINY_KNOBS[2]},
    {"rare.floor": -0.1, "rare.weight": 4.0, "optim.schedule": "warmup_cosine", "optim.warmup": 0.3},
)
_BETA_VAE_KNOBS = (
    {"kl.weight": 0.5, "kl.free_bits": 0.2, "optim.lr": 3e-3},
    {
        "reconstruction.gamma": 2.0,
        "class_weights.method": "sqrt_inverse",
        "kl.schedule": "linear",
        "kl.ramp": 0.5,
        "optim.weight_decay": 0.1,
    },
    {
        "reconstruction.gamma": 0.5,
        "class_weights.method": "inverse",
        "class_weights.cap": 30.0,
        "kl.schedule": "cyclical",
        "kl.weight": 2.0,
        "optim.schedule": "cosine",
        "optim.clip": 0.1,
    },
    {
        "class_weights.method": "effective",
        "kl.schedule": "delayed",
        "kl.start": 0.4,
        "optim.schedule": "warmup_cosine",
        "optim.lr": 1e-2,
    },
)
_TINY_STATIC = {"width": 4, "batch_size": 16}
_GRIDS = {"source": "synthetic", "size": 64}

CASES = (
    Case("tiny", TINY, _TINY_STATIC, {}, _TINY_KNOBS),
    Case("choosy", CHOOSY, _TINY_STATIC, {}, _CHOOSY_KNOBS),
    Case(
        "beta_vae",
        BETA_VAE,
        {"latent_dim": 4, "width": 16, "encoder": "mlp", "augment": "none", "batch_size": 16},
        _GRIDS,
        _BETA_VAE_KNOBS,
    ),
    Case(
        "beta_vae-conv-d4",
        BETA_VAE,
        {"latent_dim": 3, "width": 8, "encoder": "conv", "augment": "d4", "batch_size": 16},
        _GRIDS,
        _BETA_VAE_KNOBS,
    ),
    *selection_cases.CASES,
    *multitask_cases.CASES,
    *panels_cases.CASES,
    *tokens_cases.CASES,
)
POISON = Case("poisoned", POISONED, _TINY_STATIC, {}, _TINY_KNOBS)


def ids(case: Case) -> str:
    return case.name


def by_name(name: str) -> Case:
    return next(case for case in (*CASES, POISON) if case.name == name)


def job(case: Case, number: int, *, epochs: int = 8, **knobs: Any) -> Job:
    """The trial `number`; its seed and its knobs follow from it, `knobs` change some."""
    return Job(number, seed=1000 + number, epochs=epochs, knobs={**case.knobs(number), **knobs})


def engine_of(case: Case, num_slots: int, jobs: Mapping[int, Job], **settings: Any) -> Engine:
    """An engine with `jobs` by slot."""
    engine = Engine(case.family, case.load(), case.full_static, num_slots, **settings)
    for slot, one in jobs.items():
        engine.admit(one, slot)
    return engine


def run(engine: Engine, epochs: int) -> dict[int, list[Report]]:
    """The reports of each trial over `epochs` epochs."""
    reports: dict[int, list[Report]] = {}
    for _ in range(epochs):
        for report in engine.run_epoch():
            reports.setdefault(report.trial, []).append(report)
    return reports


def numbers(report: Report) -> dict[str, float]:
    """A report's row without the time that it took."""
    return {name: value for name, value in report.row.items() if name != "seconds"}


def bits(reports: Sequence[Report]) -> list[dict[str, str]]:
    """Reports to the last bit, comparable by `==` (NaN equals NaN)."""
    return [
        {name: float(value).hex() for name, value in numbers(report).items()}
        | {"epoch": str(report.epoch), "diverged": str(report.diverged), "vectors": repr(report.vectors)}
        for report in reports
    ]


def state_bits(engine: Engine, slot: int) -> dict[str, bytes]:
    """Parameters, moments and step of a slot to the last bit."""
    state = {"row": engine.stack.rows[slot].detach(), **engine.optimiser.read_row(slot)}
    return {name: tensor.contiguous().cpu().numpy().tobytes() for name, tensor in state.items()}


def state_numbers(engine: Engine, slot: int) -> dict[str, torch.Tensor]:
    """Parameters, moments and step of a slot."""
    return {"row": engine.stack.rows[slot].detach().cpu().clone(), **engine.optimiser.read_row(slot)}
