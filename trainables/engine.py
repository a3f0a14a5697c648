"""The only training loop: a stack of trials, one epoch at a time, yielding one report a trial.

No Ray here. A caller admits trials to slots, calls `run_epoch`, and evicts those that ended; the Ray Train
entry, `loss-search train`, the tests and the benchmarks all drive it in that way. With several workers each
one runs the same engine on its share of every batch; sums over the batch are sums over the workers, so that
two workers compute what one would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from trainables import keyed
from trainables.errors import BadData
from trainables.family import Batch, Data, Family
from trainables.optim import RowAdamW
from trainables.schedules import is_full, learning_rate_at, weight_at
from trainables.stack import Stack
from trainables.workers import Alone, Workers

__all__ = ["Engine", "Job", "Member", "Report"]

EVALUATION_BATCH = 1024  # examples of one evaluation step, over all workers


@dataclass(frozen=True)
class Job:
    """One trial as an engine needs it: its seed, all its knobs, and its full budget."""

    trial: int
    seed: int
    epochs: int
    knobs: Mapping[str, Any]
    directory: Path | None = None


@dataclass
class Report:
    """One trial's row for one epoch: `row` holds numbers by column name, `vectors` what figures need."""

    trial: int
    epoch: int  # epochs that the trial has done, from 1
    row: dict[str, float]
    vectors: dict[str, list[float]]
    diverged: bool
    done: bool  # diverged, or the budget is spent


@dataclass
class Member:
    """The trial in one slot."""

    job: Job
    epoch: int = 0  # epochs done
    train_accuracy: float = (
        0.0  # selection accuracy of the last epoch's training batches; chance before the first
    )
    best_value: float = -math.inf  # of the objective, larger is better
    best_epoch: int = 0
    best_row: Tensor | None = None  # f[P], on the CPU
    best_vectors: dict[str, list[float]] = field(default_factory=dict)
    diverged: bool = False


@dataclass
class _Plan:
    """What one epoch uses, drawn before its first step. S steps, b examples of this worker in a step."""

    order: Tensor  # i64[K, S, b]
    noise: dict[str, Tensor]  # [K, S, b, ...]
    weights: Tensor  # f64[K, S, T]
    rates: Tensor  # f64[K, S]


class Engine:
    """Trains up to `num_slots` trials of one family and one static setting at once.

    Args:
        family, data, static: what is trained, on what, in which shape. num_slots: K, fixed for the engine's
        life: a trial's arithmetic depends on K, not on how many slots are full. device, dtype: where and in
        which precision; float64 for tests. workers: the DDP group (`trainables.workers`); alone by default.
        wrap: puts DDP around the stack; the identity by default. objective, maximise: the validation metric
        that picks a trial's best epoch.
    """

    def __init__(
        self,
        family: Family,
        data: Data,
        static: Mapping[str, Any],
        num_slots: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        workers: Workers | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        objective: str = "selection_accuracy",
        maximise: bool = True,
    ) -> None:
        self.family, self.data, self.static = family, data, dict(static)
        self.device, self.dtype = torch.device(device), dtype
        self.workers = workers or Alone()
        self.objective, self.sign = objective, 1.0 if maximise else -1.0
        batch_size, size = int(static["batch_size"]), data.size("train")
        if batch_size > size:
            raise BadData(f"batch_size {batch_size} is larger than the training split ({size} examples)")
        if batch_size % self.workers.count:
            raise BadData(f"batch_size {batch_size} cannot be shared evenly by {self.workers.count} workers")
        self.batch_size, self.steps = batch_size, size // batch_size
        self.splits = {name: self._resident(split) for name, split in data.splits.items()}
        self.stack = Stack(family.build(static, data.facts), num_slots, device=self.device, dtype=dtype)
        self.module = wrap(self.stack)
        self.optimiser = RowAdamW(self.stack.rows)
        self.noises = family.noise(static, data.facts)
        self.members: list[Member | None] = [None] * num_slots
        self.knobs: dict[str, Tensor] = {}

    @property
    def num_slots(self) -> int:
        return len(self.members)

    @property
    def free_slots(self) -> list[int]:
        return [slot for slot, member in enumerate(self.members) if member is None]

    @property
    def occupied(self) -> list[int]:
        return [slot for slot, member in enumerate(self.members) if member is not None]

    def slot_of(self, trial: int) -> int:
        """The slot that holds `trial`; KeyError when none does."""
        for slot in self.occupied:
            if self.members[slot].job.trial == trial:
                return slot
        raise KeyError(trial)

    # ------------------------------------------------------------------ admit and evict

    def admit(self, job: Job, slot: int, state: Mapping[str, Any] | None = None) -> Member:
        """Put a trial into a free slot: fresh, or from `state` as `member_state` gave it (on every worker
        alike).
        """
        assert self.members[slot] is None, f"slot {slot} is occupied"
        member = Member(job, train_accuracy=self.family.chance(self.data.facts))
        self.optimiser.reset_row(slot)
        if state is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(keyed.key(job.seed, "initialisation"))
                model = self.family.build(self.static, self.data.facts)
            self.stack.write_row(slot, dict(model.named_parameters()))
        else:
            self._restore(member, slot, state)
        self._write_knobs(slot, self.family.prepare(job.knobs, self.data.facts))
        self.members[slot] = member
        return member

    def evict(self, slot: int) -> Member:
        """Empty a slot. Its numbers stay behind until the next trial takes it; they change nothing."""
        member = self.members[slot]
        assert member is not None, f"slot {slot} is empty"
        self.members[slot] = None
        return member

    def member_state(self, slot: int) -> dict[str, Any]:
        """Everything that the trial in `slot` needs to continue elsewhere: tensors and plain values."""
        member = self.members[slot]
        best = None if member.best_row is None else self.stack.as_state(member.best_row)
        return {
            "trial": member.job.trial,
            "seed": member.job.seed,
            "epoch": member.epoch,
            "train_accuracy": member.train_accuracy,
            "diverged": member.diverged,
            "model": self.stack.read_row(slot),
            "optimiser": self.optimiser.read_row(slot),
            "best": {
                "value": member.best_value,
                "epoch": member.best_epoch,
                "vectors": member.best_vectors,
                "model": best,
            },
        }

    def _restore(self, member: Member, slot: int, state: Mapping[str, Any]) -> None:
        self.stack.write_row(slot, state["model"])
        self.optimiser.write_row(slot, state["optimiser"])
        member.epoch, member.train_accuracy = state["epoch"], state["train_accuracy"]
        member.diverged = state["diverged"]
        best = state["best"]
        member.best_value, member.best_epoch = best["value"], best["epoch"]
        member.best_vectors = best["vectors"]
        if best["model"] is not None:
            parts = [best["model"][name].flatten() for name in self.stack.names]
            member.best_row = torch.cat([*parts, parts[0].new_zeros(self.stack.padding)])

    def _write_knobs(self, slot: int, prepared: Mapping[str, Tensor]) -> None:
        for name, value in prepared.items():
            value = self._cast(value)
            if name not in self.knobs:  # empty slots hold a copy too, so that they compute with sane numbers
                self.knobs[name] = value.expand(self.num_slots, *value.shape).clone()
            self.knobs[name][slot] = value

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)

    def _resident(self, split: Batch) -> Batch:
        return {name: self._cast(tensor) for name, tensor in split.items()}

    # ------------------------------------------------------------------ one epoch

    def run_epoch(self) -> list[Report]:
        """Train every occupied slot for one of its epochs, evaluate it, and report, in the order of the
        slots.
        """
        started = time.perf_counter()
        plan = self._plan()
        sums, counts, examined, norms, alive = self._train(plan)
        train = self._gathered(examined, plan)
        values, active, validation = self.evaluate("val")
        reports = []
        for slot in self.occupied:
            member = self.members[slot]
            weights = dict(zip(self.family.terms, plan.weights[slot, -1].tolist(), strict=True))
            terms = {name: sums[i][slot].item() for i, name in enumerate(self.family.terms)}
            row = {f"weight.{name}": weight for name, weight in weights.items()}
            row |= {f"train.{name}": value for name, value in terms.items()}
            row |= {f"active.{name}": counts[i][slot].item() for i, name in enumerate(self.family.terms)}
            row["train.loss"] = sums[-1][slot].item()
            row |= {f"val.{name}": values[name][slot].item() for name in self.family.terms}
            row["val.loss"] = sum(weights[name] * row[f"val.{name}"] for name in self.family.terms)
            row["lr"] = plan.rates[slot, -1].item()
            row["grad_norm"] = norms[slot].item()
            member.diverged = not (alive[slot].item() and math.isfinite(row["val.loss"]))
            vectors = self._measure(member, slot, row, train, validation, weights)
            member.epoch += 1
            self._remember_best(member, slot, row, vectors)
            reports.append(
                Report(
                    member.job.trial,
                    member.epoch,
                    row,
                    vectors,
                    diverged=member.diverged,
                    done=member.diverged or member.epoch >= member.job.epochs,
                )
            )
        seconds = time.perf_counter() - started
        for report in reports:
            report.row["seconds"] = seconds
        return reports

    def _measure(
        self,
        member: Member,
        slot: int,
        row: dict[str, float],
        train: dict[str, Tensor],
        validation: dict[str, Tensor],
        weights: Mapping[str, float],
    ) -> dict[str, list[float]]:
        """Add the metrics and the collapse flags of one member to its row; returns its validation vectors."""
        facts = self.data.facts
        trained = self.family.measure({name: t[slot] for name, t in train.items()}, facts)
        validated = self.family.measure({name: t[slot] for name, t in validation.items()}, facts)
        row |= {f"train.{name}": value for name, value in trained.scalars.items()}
        row |= {f"val.{name}": value for name, value in validated.scalars.items()}
        knobs = member.job.knobs
        full = {name: is_full(weight, knobs.get(f"{name}.weight", 1.0)) for name, weight in weights.items()}
        for kind, now in self.family.collapsed(validated.scalars).items():
            judged = self.family.collapse_is_judged(kind, knobs, full)
            row[f"collapsed.{kind}"] = float(now) if judged else math.nan
        member.train_accuracy = trained.scalars["selection_accuracy"]
        return validated.vectors

    def _remember_best(
        self, member: Member, slot: int, row: Mapping[str, float], vectors: dict[str, list[float]]
    ) -> None:
        value = self.sign * row[f"val.{self.objective}"]
        if not member.diverged and value > member.best_value:
            member.best_value, member.best_epoch, member.best_vectors = value, member.epoch, vectors
            member.best_row = self.stack.rows[slot].detach().cpu().clone()

    def _plan(self) -> _Plan:
        share = self.batch_size // self.workers.count
        mine = slice(self.workers.rank * share, (self.workers.rank + 1) * share)
        total, terms = self.steps * self.batch_size, len(self.family.terms)
        order = torch.zeros(self.num_slots, self.steps, share, dtype=torch.long)
        weights = torch.zeros(self.num_slots, self.steps, terms, dtype=torch.float64)
        rates = torch.zeros(self.num_slots, self.steps, dtype=torch.float64)
        noise: dict[str, Tensor] = {}
        for slot in self.occupied:
            member = self.members[slot]
            job = member.job
            permutation = self.family.order(
                job.knobs, self.data, keyed.generator(job.seed, "order", member.epoch)
            )
            order[slot] = permutation[:total].view(self.steps, self.batch_size)[:, mine]
            for name, kind in self.noises.items():
                drawn = keyed.draw(kind, total, keyed.generator(job.seed, name, member.epoch))
                drawn = drawn.unflatten(0, (self.steps, self.batch_size))[:, mine]
                noise.setdefault(name, drawn.new_zeros(self.num_slots, *drawn.shape))[slot] = drawn
            progress = (
                member.epoch + torch.arange(self.steps, dtype=torch.float64) / self.steps
            ) / job.epochs
            for i, term in enumerate(self.family.terms):
                weights[slot, :, i] = self._weight(term, job.knobs, progress, member.train_accuracy)
            rates[slot] = torch.from_numpy(
                learning_rate_at(
                    progress.numpy(),
                    lr=job.knobs["optim.lr"],
                    schedule=job.knobs.get("optim.schedule", "constant"),
                    warmup=job.knobs.get("optim.warmup", 0.0),
                )
            )
        noise = {name: self._cast(drawn) for name, drawn in noise.items()}
        return _Plan(order.to(self.device), noise, weights.to(self.device), rates.to(self.device))

    @staticmethod
    def _weight(term: str, knobs: Mapping[str, Any], progress: Tensor, accuracy: float) -> Tensor:
        """A term's weight at each step, f64[S], from the knobs `term.weight`, `term.schedule`, ...

        that it has.
        """
        names = ("weight", "schedule", "start", "ramp", "cycles")
        given = {name: knobs[f"{term}.{name}"] for name in names if f"{term}.{name}" in knobs}
        settings = {"weight": 1.0, "schedule": "constant", **given}
        return torch.from_numpy(weight_at(progress.numpy(), **settings, accuracy=accuracy))

    def _train(self, plan: _Plan) -> tuple[list[Tensor], list[Tensor], list[dict], Tensor, Tensor]:
        """All steps of one epoch.

        Returns:
            means of each term over its active examples and of the weighted loss over steps, [T + 1] of
            f64[K]; numbers of active examples, [T] of i64[K]; what `examine` saw, a dict a step; the mean
            gradient norm f64[K]; and bool[K], whether every step of a member was finite.
        """
        full = torch.tensor([m is not None for m in self.members], device=self.device)
        decay, clip = self._per_member("optim.weight_decay", 0.0), self._per_member("optim.clip", math.inf)
        alive = full & torch.tensor(
            [m is not None and not m.diverged for m in self.members], device=self.device
        )
        size = len(self.family.terms)
        zeros = torch.zeros(self.num_slots, dtype=torch.float64, device=self.device)
        sums, counts = [zeros.clone() for _ in range(size + 1)], [zeros.clone() for _ in range(size)]
        norm_sum, examined = zeros.clone(), []
        self.module.train()
        for step in range(self.steps):
            batch = {name: tensor[plan.order[:, step]] for name, tensor in self.splits["train"].items()}
            noise = {name: drawn[:, step] for name, drawn in plan.noise.items()}
            outputs = self.module(batch, noise, self.knobs)
            means, active = self._term_means(outputs, batch)
            loss = (torch.stack(means, 1) * plan.weights[:, step].to(self.dtype)).sum(1)
            # The sum, not the mean, over members: each row's gradient is its own. DDP averages over the
            # workers.
            self.stack.rows.grad = None
            (torch.where(alive, loss, torch.zeros_like(loss)).sum() * self.workers.count).backward()
            finite = self.workers.all_true(torch.isfinite(loss.detach()))
            norms = self.optimiser.step(
                self.stack.rows.grad,
                lr=plan.rates[:, step],
                weight_decay=decay,
                clip=clip,
                alive=alive & finite,
            )
            alive = alive & finite & torch.isfinite(norms)
            with torch.no_grad():
                examined.append(vmap(self.family.examine)(outputs, batch, self.knobs))
                for i, mean in enumerate([*means, loss]):
                    sums[i] += mean.detach().double() * (active[i] if i < size else 1.0)
                for i in range(size):
                    counts[i] += active[i]
                norm_sum += norms.double()
        sums = [self.workers.sum(total) for total in sums]
        averages = [sums[i] / counts[i].clamp(min=1) for i in range(size)] + [sums[size] / self.steps]
        return averages, [count.long() for count in counts], examined, norm_sum / self.steps, alive

    def _term_means(self, outputs: Mapping[str, Tensor], batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Each term's sum over this worker's active examples, divided by the active examples of all workers.

        Returns lists over terms: f[K] with gradient, and the active counts f64[K] of the whole batch.
        """
        with torch.no_grad():
            shared = vmap(self.family.share)(outputs)
            means = {name: self.workers.sum(t.sum(1)) / self.batch_size for name, t in shared.items()}
        values, active = vmap(self._losses)(outputs, means, batch, self.knobs)
        averages, counts = [], []
        for name in self.family.terms:
            if name in active:
                count = self.workers.sum(active[name].detach().double().sum(1))
                total = torch.where(active[name] > 0, values[name], torch.zeros_like(values[name])).sum(1)
            else:
                count = torch.full(
                    (self.num_slots,), self.batch_size, dtype=torch.float64, device=self.device
                )
                total = values[name].sum(1)
            averages.append(total / count.clamp(min=1).to(self.dtype))
            counts.append(count)
        return averages, counts

    def _losses(
        self,
        outputs: Mapping[str, Tensor],
        means: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One member's terms as vmap can return them: values of all terms, and `active` of those that
        have it.
        """
        terms = self.family.losses(outputs, means, batch, knobs)
        values = {name: terms[name].values for name in self.family.terms}
        return values, {name: term.active for name, term in terms.items() if term.active is not None}

    def _per_member(self, name: str, default: float) -> Tensor:
        values = [default if m is None else float(m.job.knobs.get(name, default)) for m in self.members]
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _gathered(self, examined: list[dict[str, Tensor]], plan: _Plan) -> dict[str, Tensor]:
        """What all workers examined in an epoch, [K, S * B, ...]."""
        return {name: self.workers.gather(torch.cat([e[name] for e in examined], 1)) for name in examined[0]}

    # ------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self, split: str) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Every member on a whole split, in evaluation mode.

        Returns:
            by term: its mean over active examples f64[K], and their number f64[K]; and what `examine` saw,
            [K, N, ...].
        """
        self.stack.eval()
        size = self.data.size(split)
        collected: dict[str, list[Tensor]] = {}
        for start in range(0, size, EVALUATION_BATCH):
            stop = min(start + EVALUATION_BATCH, size)
            share = math.ceil((stop - start) / self.workers.count)
            first = start + self.workers.rank * share
            # A worker whose share runs over the end repeats the last example; `gather` below drops the
            # copies.
            index = torch.arange(first, first + share, device=self.device).clamp(max=stop - 1)
            batch = {name: tensor[index] for name, tensor in self.splits[split].items()}
            outputs = self.stack(batch, {}, self.knobs, same_batch=True)
            keep = stop - start
            seen = vmap(self.family.share)(outputs)
            means = {name: self.workers.gather(t)[:, :keep].mean(1) for name, t in seen.items()}
            values, active = vmap(self._losses, in_dims=(0, 0, None, 0))(outputs, means, batch, self.knobs)
            found = dict(vmap(self.family.examine, in_dims=(0, None, 0))(outputs, batch, self.knobs))
            for name in self.family.terms:
                ones = torch.ones_like(values[name])
                found[f"active {name}"] = taking_part = active.get(name, ones).to(ones.dtype)
                found[f"values {name}"] = torch.where(taking_part > 0, values[name], torch.zeros_like(ones))
            for name, tensor in found.items():
                collected.setdefault(name, []).append(self.workers.gather(tensor)[:, :keep])
        whole = {name: torch.cat(parts, 1) for name, parts in collected.items()}
        active = {name: whole.pop(f"active {name}").double().sum(1) for name in self.family.terms}
        values = {
            name: whole.pop(f"values {name}").double().sum(1) / active[name].clamp(min=1)
            for name in self.family.terms
        }
        return values, active, whole

    @torch.no_grad()
    def predict(self, slot: int, batch: Batch, row: Tensor | None = None) -> dict[str, Tensor]:
        """One member's outputs in evaluation mode; with `row` f[P], those of that model in the member's
        place.
        """
        self.stack.eval()
        rows = (self.stack.rows[slot] if row is None else row.to(self.device, self.dtype)).unsqueeze(0)
        knobs = {name: value[slot : slot + 1] for name, value in self.knobs.items()}
        outputs = torch.func.functional_call(
            self.stack, {"rows": rows}, (batch, {}, knobs), {"same_batch": True}
        )
        return {name: tensor[0] for name, tensor in outputs.items()}
