"""What a stack costs and gains, family by family: engines with K slots against a plain loop of one model.

    python tests/bench/families.py
    python tests/bench/families.py --families beta_vae --slots 1 4 --rounds 9

The plain loop is what one would write by hand: the family's model and losses, one `torch.optim.AdamW`,
gradient clipping, the validation split once an epoch; no stack, no vmap. It is timed twice: with all that the
engine computes too (metrics of the training split, weights that a model could learn), and without.

All ways take turns of one epoch in one process, and a ratio is that of two turns of one round, of which the
median and the quartiles are printed: what else the machine does meets both. On a CPU the time is that of the
thread (one thread, no waiting counted), on a GPU the clock's.
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

PLAIN, SAME = "plain", "plain, same work"
BUDGET = 1_000_000  # epochs: schedules stand still


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    device = torch.device(given.device)
    found = []
    for name in given.families:
        family = family_named(name)
        data, static = _default(family)
        found.append(measure(family, data, static, given.slots, given.rounds, device))
        _print(found[-1])
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


def measure(
    family: Family, data: Data, static: dict[str, Any], slots: list[int], rounds: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of each way's turns, and the members that each trains. In each round every way has a turn, in
    an order that moves on by one; one of K slots, which takes K times as long, in every K-th round.
    """
    ways: dict[str, Callable[[], Any]] = {
        PLAIN: plain_loop(family, data, static, device, same_work=False),
        SAME: plain_loop(family, data, static, device, same_work=True),
        **{f"K={k}": _stacked(family, data, static, k, device) for k in slots},
    }
    members = {way: int(way.removeprefix("K=")) if way.startswith("K=") else 1 for way in ways}
    names = list(ways)
    for epoch in ways.values():
        epoch()  # pays for allocation
    turns: dict[str, dict[int, tuple[float, float]]] = {way: {} for way in ways}
    for number in range(rounds):
        shift = number % len(names)
        for way in names[shift:] + names[:shift]:
            if number % members[way] == 0:
                turns[way][number] = _timed(ways[way], device)
    return {
        "family": family.name,
        "train": data.size("train"),
        "members": members,
        "turns": turns,  # way -> round -> (seconds, seconds of the clock)
        "load": os.getloadavg()[0],
        "nice": os.nice(0),
    }


def _timed(epoch: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds that count, and seconds of the clock."""
    _synchronise(device)
    clock, thread = time.perf_counter(), time.thread_time()
    epoch()
    _synchronise(device)
    wall = time.perf_counter() - clock
    return (time.thread_time() - thread if device.type == "cpu" else wall), wall


def plain_loop(
    family: Family, data: Data, static: dict[str, Any], device: torch.device, *, same_work: bool
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
        learnt = family.balance(outputs, prepared) if same_work else None
        loss = torch.zeros((), device=device) if learnt is None else learnt.penalty
        for number, name in enumerate(family.terms):
            term = terms[name]
            active = torch.ones_like(term.values) if term.active is None else term.active
            values = torch.where(active > 0, term.values, torch.zeros_like(term.values))
            mean = values.sum() / active.sum().clamp(min=1)
            loss = loss + weights[name] * (mean if learnt is None else learnt.factors[number] * mean)
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
            if same_work:
                with torch.no_grad():
                    seen.append(family.examine(outputs, batch, prepared))
        if same_work:
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


def _print(found: dict[str, Any]) -> None:
    turns, members = found["turns"], found["members"]
    print(
        f"{found['family']}: {found['train']:,} training examples; load {found['load']:.1f}, "
        f"nice {found['nice']}"
    )
    for way, taken in turns.items():
        seconds, wall = (statistics.median(turn[i] for turn in taken.values()) for i in (0, 1))
        line = f"  {way:17} {seconds:7.3f} s an epoch  {members[way] / seconds:6.2f} members/s"
        if way.startswith("K="):
            line += "".join(
                f"  {_ratio(turns, way, plain, members[way])} of {plain}" for plain in (PLAIN, SAME)
            )
        print(f"{line}  ({wall:.2f} s by the clock, {len(taken)} turns)")
    sys.stdout.flush()


def _ratio(turns: dict[str, dict[int, tuple[float, float]]], way: str, plain: str, members: int) -> str:
    """Members a second of a way over those of a plain loop: the median of rounds, and the quartiles."""
    ratios = sorted(members * turns[plain][number][0] / turns[way][number][0] for number in turns[way])
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} [{low:.2f} {high:.2f}]"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--families", nargs="+", default=list(FAMILIES), metavar="NAME", help="all by default"
    )
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2, 4, 8], metavar="K")
    parser.add_argument("--rounds", type=int, default=9, help="turns of one slot and of the plain loops")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
