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
from typing import Any

import torch
from torch import Tensor, nn

from trainables import keyed
from trainables.errors import BadData
from trainables.family import Balance, Batch, Data, Family
from trainables.forward import Forward
from trainables.member import Job, Member, Report
from trainables.optim import RowAdamW
from trainables.plan import Plan, Shape, plan_epoch
from trainables.stack import Stack
from trainables.workers import Alone, Workers

__all__ = ["Engine"]

EVALUATION_BATCH = 1024  # examples of one evaluation step, over all workers
VALUES, ACTIVE = " values", " active"  # beside what is examined; no name of a family begins with a space


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
        self.group = family.group(static)
        batch_size, size = int(static["batch_size"]), data.size("train")
        _require_fit(batch_size, self.group, self.workers.count, data)
        self.batch_size, self.steps = batch_size, size // batch_size
        self.splits = {name: self._resident(split) for name, split in data.splits.items()}
        self.stack = Stack(family.build(static, data.facts), num_slots, device=self.device, dtype=dtype)
        self.module = wrap(self.stack)
        self.optimiser = RowAdamW(self.stack.rows)
        self.noises = family.noise(static, data.facts)
        self.forward = Forward(family, self.module, self.workers)
        self.members: list[Member | None] = [None] * num_slots
        self.knobs: dict[str, Tensor] = {}

    @property
    def evaluation_batch(self) -> int:
        """Examples of one evaluation step: training's number where examples meet across the batch."""
        return self.batch_size if self.forward.joins else EVALUATION_BATCH // self.group * self.group

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
        member = Member(job, train_accuracy=self.family.chance(self.data.facts, self.static))
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
            "factors": member.factors,
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
        member.factors, member.diverged = state["factors"], state["diverged"]
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
        averages, counts, examined, norms, weights_in_force, alive = self._train(plan)
        train = self._gathered(examined)
        values, _, validation = self.evaluate("val")
        reports = []
        for slot in self.occupied:
            member = self.members[slot]
            weights = dict(zip(self.family.terms, weights_in_force[slot].tolist(), strict=True))
            full = dict(zip(self.family.terms, plan.full[slot].tolist(), strict=True))
            *terms, loss = averages[slot].tolist()
            row = {f"weight.{name}": weight for name, weight in weights.items()}
            row |= {f"train.{name}": value for name, value in zip(weights, terms, strict=True)}
            row |= {f"active.{name}": n for name, n in zip(weights, counts[slot].tolist(), strict=True)}
            row["train.loss"] = loss
            row |= {f"val.{name}": v for name, v in zip(weights, values[slot].tolist(), strict=True)}
            row["val.loss"] = sum(weights[name] * row[f"val.{name}"] for name in self.family.terms)
            row["lr"] = plan.rates[slot, -1].item()
            row["grad_norm"] = norms[slot].item()
            member.diverged = not (alive[slot].item() and math.isfinite(row["val.loss"]))
            vectors = self._measure(member, slot, row, train, validation, full)
            member.epoch += 1
            self._remember_best(member, slot, row, vectors)
            if not member.diverged and member.epoch < member.job.epochs:
                self._renew(member, slot, train)
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
        self._test({report.trial: report for report in reports if report.done})
        seconds = time.perf_counter() - started
        for report in reports:
            report.row["seconds"] = seconds
        return reports

    @torch.no_grad()
    def _test(self, ended: Mapping[int, Report]) -> None:
        """Add `test.<term or metric>` of the best epoch's model to the rows of ended trials that want it."""
        members = {slot: self.members[slot] for slot in self.occupied}
        wanted = {
            slot: member
            for slot, member in members.items()
            if member.job.test and member.job.trial in ended and member.best_row is not None
        }
        if not wanted:
            return
        rows = self.stack.rows.detach().clone()
        for slot, member in wanted.items():
            self.stack.rows[slot] = member.best_row.to(self.device, self.dtype)
        values, _, examined = self.evaluate("test")
        self.stack.rows.copy_(rows)
        for slot, member in wanted.items():
            seen = {name: tensor[slot] for name, tensor in examined.items()}
            measured = dict(zip(self.family.terms, values[slot].tolist(), strict=True))
            measured |= self.family.measure(seen, self.data.facts).scalars
            ended[member.job.trial].row.update({f"test.{name}": value for name, value in measured.items()})

    def _measure(
        self,
        member: Member,
        slot: int,
        row: dict[str, float],
        train: dict[str, Tensor],
        validation: dict[str, Tensor],
        full: Mapping[str, bool],
    ) -> dict[str, list[float]]:
        """Add the metrics and the collapse flags of one member to its row; returns its validation vectors."""
        facts = self.data.facts
        trained = self.family.measure({name: t[slot] for name, t in train.items()}, facts)
        validated = self.family.measure({name: t[slot] for name, t in validation.items()}, facts)
        row |= {f"train.{name}": value for name, value in trained.scalars.items()}
        row |= {f"val.{name}": value for name, value in validated.scalars.items()}
        knobs = member.job.knobs
        for kind, now in self.family.collapsed(validated.scalars).items():
            judged = now is not None and self.family.collapse_is_judged(kind, knobs, full)
            row[f"collapsed.{kind}"] = float(now) if judged else math.nan
        member.train_accuracy = trained.scalars["selection_accuracy"]
        member.factors = self.family.reweigh(knobs, validated.scalars, facts)
        return validated.vectors

    def _renew(self, member: Member, slot: int, train: Mapping[str, Tensor]) -> None:
        """Replace what the family finds dead, with the moments of it set to 0."""
        seen = {name: tensor[slot] for name, tensor in train.items()}
        source = keyed.generator(member.job.seed, "renewal", member.epoch)
        for name, new in self.family.renew(self.stack.views(slot), seen, source).items():
            where = new.where.to(self.device)
            for rows, values in (
                (self.stack.rows.detach(), self._cast(new.values)),
                (self.optimiser.first, 0.0),
                (self.optimiser.second, 0.0),
            ):
                view = self.stack.view(rows[slot], name)
                view.copy_(torch.where(where, values, view))

    def _remember_best(
        self, member: Member, slot: int, row: Mapping[str, float], vectors: dict[str, list[float]]
    ) -> None:
        value = self.sign * row[f"val.{self.objective}"]
        if not member.diverged and value > member.best_value:
            member.best_value, member.best_epoch, member.best_vectors = value, member.epoch, vectors
            member.best_row = self.stack.rows[slot].detach().cpu().clone()

    def _plan(self) -> Plan:
        share = self.batch_size // self.workers.count
        mine = slice(self.workers.rank * share, (self.workers.rank + 1) * share)
        shape = Shape(self.steps, self.batch_size, mine)
        plan = plan_epoch(self.family, self.data, self.noises, self.members, shape)
        return Plan(
            plan.order.to(self.device),
            {name: self._cast(drawn) for name, drawn in plan.noise.items()},
            plan.weights.to(self.device),
            plan.full,
            plan.rates.to(self.device),
        )

    def _train(self, plan: Plan) -> tuple[Tensor, Tensor, list[Batch], Tensor, Tensor, Tensor]:
        """All steps of one epoch.

        Returns:
            means of each term over its active examples, and last of the weighted loss over steps,
            f64[K, T + 1]; numbers of active examples f64[K, T]; what `examine` saw, a dict a step; the mean
            gradient norm f64[K]; the weights of the last step, what the model learnt of them included,
            f64[K, T]; and bool[K], whether every step of a member was finite.
        """
        alive = torch.tensor([m is not None and not m.diverged for m in self.members], device=self.device)
        decay, clip = self._per_member("optim.weight_decay", 0.0), self._per_member("optim.clip", math.inf)
        size, slots = len(self.family.terms), self.num_slots
        sums = torch.zeros(slots, size + 1, dtype=torch.float64, device=self.device)
        counts, norm_sum = torch.zeros_like(sums[:, :size]), torch.zeros_like(sums[:, 0])
        examined = []
        self.module.train()
        for step in range(self.steps):
            batch = self._batch("train", plan.order[:, step])
            noise = {name: drawn[:, step] for name, drawn in plan.noise.items()}
            found = self.forward.train(batch, noise, self.knobs, self.batch_size)
            # Each worker's part of the mean over the active examples of all.
            active = self.workers.sum(found.active.sum(-1, dtype=torch.float64))
            means = found.values.sum(-1) / active.clamp(min=1).to(self.dtype)
            loss, weights = self._weighted(means, plan.weights[:, step], found.balance)
            # The sum, not the mean, over members: each row's gradient is its own. DDP averages over the
            # workers.
            self.stack.rows.grad = None
            loss.backward(alive.to(self.dtype) * self.workers.count)
            finite = self.workers.all_true(torch.isfinite(loss.detach()))
            norms, alive = self.optimiser.step(
                self.stack.rows.grad,
                lr=plan.rates[:, step],
                weight_decay=decay,
                clip=clip,
                alive=alive & finite,
            )
            examined.append(found.examined)
            sums[:, :size] += means.detach() * active
            sums[:, size] += loss.detach()
            counts += active
            norm_sum += norms
        sums = self.workers.sum(sums)
        averages = torch.cat([sums[:, :size] / counts.clamp(min=1), sums[:, size:] / self.steps], 1)
        return averages, counts, examined, norm_sum / self.steps, weights, alive

    def _weighted(self, means: Tensor, weights: Tensor, learnt: Balance | None) -> tuple[Tensor, Tensor]:
        """This worker's part of each member's loss, f[K], from its part of the terms' means f[K, T], and the
        weights in force, f64[K, T].
        """
        weighted = means * weights.to(self.dtype)
        if learnt is None:
            return weighted.sum(1), weights
        # Every worker computes the same penalty; their sum must be one.
        loss = (weighted * learnt.factors).sum(1) + learnt.penalty / self.workers.count
        return loss, weights * learnt.factors.detach().double()

    def _batch(self, split: str, index: Tensor) -> Batch:
        """The examples i64[...] of a split, [..., *example]. `index_select` copies whole examples, where
        indexing by brackets goes number by number."""
        flat, shape = index.flatten(), index.shape
        return {
            name: tensor.index_select(0, flat).view(*shape, *tensor.shape[1:])
            for name, tensor in self.splits[split].items()
        }

    def _per_member(self, name: str, default: float) -> Tensor:
        values = [default if m is None else float(m.job.knobs.get(name, default)) for m in self.members]
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _gathered(self, examined: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """What all workers examined in an epoch, [K, S * B, ...], in the order of training."""
        whole = {}
        for name in examined[0]:
            gathered = self.workers.gather(torch.cat([one[name] for one in examined], 1))
            by_worker = gathered.unflatten(1, (self.workers.count, self.steps, -1))
            whole[name] = by_worker.transpose(1, 2).flatten(1, 3)
        return whole

    # ------------------------------------------------------------------ evaluation

    @torch.no_grad()
    def evaluate(self, split: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Every member on a whole split, in evaluation mode.

        Returns:
            means of each term over its active examples, f64[K, T], and their number, f64[K, T]; and what
            `examine` saw, [K, N, ...].
        """
        self.stack.eval()
        size = self.data.size(split) // self.group * self.group
        passes: list[dict[str, Tensor]] = []
        for start in range(0, size, self.evaluation_batch):
            stop = min(start + self.evaluation_batch, size)
            share = math.ceil((stop - start) / self.group / self.workers.count) * self.group
            first = start + self.workers.rank * share
            # A worker whose share runs over the end repeats the last example; `gather` below drops the
            # copies.
            index = torch.arange(first, first + share, device=self.device).clamp(max=stop - 1)
            batch, keep = self._batch(split, index), stop - start
            found = self.forward.evaluate(self.stack, batch, self.knobs, keep)
            terms = {VALUES: found.values.mT, ACTIVE: found.active.mT}
            passes.append({n: self.workers.gather(t)[:, :keep] for n, t in (terms | found.examined).items()})
        whole = {name: torch.cat([one[name] for one in passes], 1) for name in passes[0]}
        values, active = (whole.pop(name).sum(1, dtype=torch.float64) for name in (VALUES, ACTIVE))
        return values / active.clamp(min=1), active, whole

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


def _require_fit(batch_size: int, group: int, workers: int, data: Data) -> None:
    """Raises BadData unless each worker's part of a batch holds whole groups, and each split one of them."""
    size = data.size("train")
    if batch_size > size:
        raise BadData(f"batch_size {batch_size} is larger than the training split ({size} examples)")
    if batch_size % (workers * group):
        parts = f"{workers} workers" if workers > 1 else "one worker"
        groups = f" in whole groups of {group}" if group > 1 else ""
        raise BadData(
            f"batch_size {batch_size} cannot be shared evenly by {parts}{groups}; "
            f"give a multiple of {workers * group}"
        )
    for split in data.splits:
        if data.size(split) < group:
            raise BadData(f"the {split} split has {data.size(split)} examples, less than a group of {group}")
