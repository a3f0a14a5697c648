"""How many slots an engine should have: measured, not guessed.

A stack gains while its members leave the device idle. The number chosen is the smallest K that reaches 90 %
of the best members per second and stays under 85 % of the memory; one, when the best K gains less than 1.2
times over K = 1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from trainables.engine import Engine
from trainables.family import Data, Family
from trainables.member import Job

__all__ = ["choose_slots", "default_knobs", "epoch_seconds", "pick"]

WORTH_IT = 1.2  # gain over K = 1 below which one trial at a time is the simpler choice
NEAR_BEST = 0.9
MEMORY_SHARE = 0.85
MEASURED_STEPS = 12
CPU_CANDIDATES = (1, 2, 4)
GPU_CANDIDATES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def pick(timings: Mapping[int, float]) -> int:
    """The smallest K within 90 % of the best rate; 1 when the best gains less than 1.2 times.

    Args:
        timings: member-epochs (or member-steps) per second by K; holds K = 1.
    """
    best = max(timings.values())
    if best < WORTH_IT * timings[1]:
        return 1
    return min(slots for slots, rate in timings.items() if rate >= NEAR_BEST * best)


def choose_slots(
    family: Family,
    data: Data,
    static: Mapping[str, Any],
    *,
    device: torch.device,
    candidates: Sequence[int] | None = None,
) -> tuple[int, dict[int, float]]:
    """Train a few steps with each candidate K and pick one.

    Returns:
        K, and member-steps per second by K. Stops at the first K that does not fit into memory or gains no
        more.
    """
    on_gpu = device.type == "cuda"
    timings: dict[int, float] = {}
    for slots in candidates or (GPU_CANDIDATES if on_gpu else CPU_CANDIDATES):
        try:
            timings[slots] = _rate(family, _excerpt(data, int(static["batch_size"])), static, slots, device)
        except torch.OutOfMemoryError:
            break
        if on_gpu:
            free, total = torch.cuda.mem_get_info(device)
            if 2 * (total - free) > MEMORY_SHARE * total:
                break
        if timings[slots] < NEAR_BEST * max(timings.values()):
            break
    return pick(timings), timings


def epoch_seconds(family: Family, data: Data, static: Mapping[str, Any], *, device: torch.device) -> float:
    """About how long one trial's epoch takes here, s: a few steps and a whole validation, measured."""
    batch_size = int(static["batch_size"])
    excerpt = _excerpt(data, batch_size)
    engine = Engine(
        family, Data({**excerpt.splits, "val": data.splits["val"]}, data.facts), static, 1, device=device
    )
    engine.admit(Job(0, seed=0, epochs=1_000_000, knobs=default_knobs(family)), 0)
    engine.run_epoch()
    _synchronise(device)
    started = time.perf_counter()
    engine.run_epoch()
    _synchronise(device)
    epoch = time.perf_counter() - started
    started = time.perf_counter()
    engine.evaluate("val")
    _synchronise(device)
    evaluation = time.perf_counter() - started
    steps = data.size("train") // batch_size
    return max(epoch - evaluation, 0.0) * steps / engine.steps + evaluation


def default_knobs(family: Family) -> dict[str, Any]:
    """Every knob at its default."""
    return {name: knob.default for name, knob in family.knobs.items()}


def _excerpt(data: Data, batch_size: int) -> Data:
    """Enough training examples for the measured steps, and one evaluation batch."""
    sizes = {"train": MEASURED_STEPS * batch_size}
    splits = {
        name: {key: tensor[: sizes.get(name, batch_size)] for key, tensor in split.items()}
        for name, split in data.splits.items()
    }
    return Data(splits, data.facts)


def _rate(family: Family, data: Data, static: Mapping[str, Any], slots: int, device: torch.device) -> float:
    engine = Engine(family, data, static, slots, device=device)
    knobs = default_knobs(family)
    for slot in range(slots):
        engine.admit(Job(slot, seed=slot, epochs=1_000_000, knobs=knobs), slot)
    engine.run_epoch()  # the first epoch pays for allocation and kernel selection
    _synchronise(device)
    # A thread's own time stands still while others have its core: what else the machine does decides little.
    own = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if own else time.perf_counter
    started = clock()
    engine.run_epoch()
    _synchronise(device)
    return slots * engine.steps / (clock() - started)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
