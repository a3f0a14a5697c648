"""What a stack costs and gains, family by family: engines with K slots against a plain loop of one model.

    python tests/bench/families.py
    python tests/bench/families.py --families beta_vae --slots 1 4 --epochs 3

The plain loop is what one would write by hand: the family's model and losses, one `torch.optim.AdamW`,
gradient clipping, the validation split once an epoch; no stack, no vmap. It is timed twice: with the metrics
of the training split, which the engine computes too, and without them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables import FAMILIES, family_named, keyed
from trainables.engine import EVALUATION_BATCH, Engine
from trainables.family import Data, Family
from trainables.member import Job
from trainables.slots import default_knobs

TARGET = 0.9  # of the plain loop's speed, engine with one slot
BUDGET = 1_000_000  # epochs: schedules stand still


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    found = []
    for name in given.families:
        family = family_named(name)
        data, static = _default(family)
        found.append(measure(family, data, static, given.slots, given.epochs, device))
        _print(found[-1], given.slots)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def measure(
    family: Family, data: Data, static: dict[str, Any], slots: list[int], epochs: int, device: torch.device
) -> dict[str, Any]:
    """Seconds an epoch of each way, the median of `epochs`; the ways take turns, so that load is shared."""
    ways: dict[str, Callable[[], None]] = {
        "plain": plain_loop(family, data, static, device, train_metrics=False),
        "plain, same work": plain_loop(family, data, static, device, train_metrics=True),
        **{f"K={k}": _stacked(family, data, static, k, device) for k in slots},
    }
    for epoch in ways.values():
        epoch()  # pays for allocation
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(epochs):
        for way, epoch in ways.items():
            _synchronise(device)
            started = time.perf_counter()
            epoch()
            _synchronise(device)
            times[way].append(time.perf_counter() - started)
    seconds = {way: statistics.median(taken) for way, taken in times.items()}
    return {"family": family.name, "train": data.size("train"), "seconds": seconds}


def plain_loop(
    family: Family, data: Data, static: dict[str, Any], device: torch.device, *, train_metrics: bool
) -> Callable[[], None]:
    """A function that trains one model for an epoch and measures it, as one would write it by hand."""
    knobs = default_knobs(family)
    model: nn.Module = family.build(static, data.facts).to(device)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=knobs["optim.lr"], weight_decay=knobs.get("optim.weight_decay", 0.0)
    )
    splits = {name: {key: t.to(device) for key, t in split.items()} for name, split in data.splits.items()}
    prepared = {name: _float32(value).to(device) for name, value in family.prepare(knobs, data.facts).items()}
    weights = {term: float(knobs.get(f"{term}.weight", 1.0)) for term in family.terms}
    noises, batch_size = family.noise(static, data.facts), int(static["batch_size"])
    steps, counter = data.size("train") // batch_size, iter(range(BUDGET))

    def forward(batch: dict[str, Tensor], noise: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = model(batch, noise, prepared)
        everyone = {name: t.detach().mean(0) for name, t in family.share(outputs).items()}
        terms = family.losses(outputs, {**everyone, **family.join(outputs)}, batch, prepared)
        loss = torch.zeros((), device=device)
        for name, term in terms.items():
            active = torch.ones_like(term.values) if term.active is None else term.active
            values = torch.where(active > 0, term.values, torch.zeros_like(term.values))
            loss = loss + weights[name] * values.sum() / active.sum().clamp(min=1)
        return loss, outputs

    def epoch() -> None:
        number = next(counter)
        order = family.order(knobs, data, keyed.generator(0, "order", number)).to(device)
        drawn = {
            name: keyed.draw(kind, steps * batch_size, keyed.generator(0, name, number)).to(device)
            for name, kind in noises.items()
        }
        model.train()
        seen = []
        for step in range(steps):
            span = slice(step * batch_size, (step + 1) * batch_size)
            batch = {key: tensor[order[span]] for key, tensor in splits["train"].items()}
            loss, outputs = forward(batch, {name: noise[span] for name, noise in drawn.items()})
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), knobs.get("optim.clip", float("inf")))
            optimiser.step()
            if train_metrics:
                with torch.no_grad():
                    seen.append(family.examine(outputs, batch, prepared))
        if train_metrics:
            family.measure(_joined(seen), data.facts)
        validate()

    @torch.no_grad()
    def validate() -> None:
        model.eval()
        seen, group = [], family.group(static)
        joins = type(family).join is not Family.join
        chunk = batch_size if joins else EVALUATION_BATCH // group * group
        size = data.size("val") // group * group
        for start in range(0, size, chunk):
            batch = {key: tensor[start : min(start + chunk, size)] for key, tensor in splits["val"].items()}
            _, outputs = forward(batch, {})
            seen.append(family.examine(outputs, batch, prepared))
        family.measure(_joined(seen), data.facts)

    return epoch


def _joined(seen: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in seen]) for name in seen[0]}


def _stacked(
    family: Family, data: Data, static: dict[str, Any], slots: int, device: torch.device
) -> Callable[[], Any]:
    engine = Engine(family, data, static, slots, device=device)
    for slot in range(slots):
        engine.admit(Job(slot, seed=slot, epochs=BUDGET, knobs=default_knobs(family)), slot)
    return engine.run_epoch


def _default(family: Family) -> tuple[Data, dict[str, Any]]:
    """A family's default data and static settings."""
    settings = {name: setting.default for name, setting in family.data_settings.items()}
    data = family.load({"source": family.sources[0], "path": None, **settings})
    return data, {name: setting.default for name, setting in family.statics.items()}


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _print(found: dict[str, Any], slots: list[int]) -> None:
    seconds = found["seconds"]
    print(f"{found['family']}: {found['train']:,} training examples; load {os.getloadavg()[0]:.1f}")
    for way, taken in seconds.items():
        members = int(way.removeprefix("K=")) if way.startswith("K=") else 1
        print(f"  {way:18} {taken:7.3f} s an epoch  {members / taken:7.2f} members/s")
    if 1 in slots:
        for way in ("plain", "plain, same work"):
            ratio = seconds[way] / seconds["K=1"]
            verdict = "reached" if ratio >= TARGET else "NOT reached"
            print(f"  K=1 runs at {ratio:.2f} of {way} (target {TARGET}: {verdict})")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--families", nargs="+", default=list(FAMILIES), metavar="NAME", help="all by default"
    )
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 4, 8], metavar="K")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each way: medians")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
