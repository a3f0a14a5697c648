"""What a family must provide, so that one engine trains them all.

A family is one model with a loss of several terms. It names its knobs (numbers that vary inside a stack)
and its static settings (which change code or shapes), builds ONE model, and gives pure functions of one
member's tensors. It never sees the trial axis: the stack adds it with `vmap`, so everything below that
takes a batch must avoid `.item()`, branching on tensor values, boolean-mask indexing, and adding in place
what depends on examples to a tensor that does not (zeros, a parameter's copy).

The path of one training step, for one member:

    batch, noise ──► model(batch, noise, knobs) ──► outputs ──► losses(outputs, everyone, batch, knobs)
                                                      │                     ▲
                                                      ├─► share ──► means ──┤   over the examples of all
                                                      └─► join  ──► tensors ┘   DDP workers

and of one evaluation:  outputs ──► examine(...) per example, over the whole split ──► measure(...) scalars.
Then, once an epoch: reweigh(...) gives the terms new factors, renew(...) replaces parameters that died.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.data import Field

# fmt: off
__all__ = [
    "Balance", "Batch", "Choice", "Data", "Family", "Measured", "Metric", "Noise", "Number", "Picture",
    "Replacement", "Setting", "Term",
]
# fmt: on

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Number:
    """A setting that is a number in [`low`, `high`]; `integer` restricts it to whole numbers."""

    default: float
    low: float
    high: float
    help: str
    integer: bool = False
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # in force only when these knobs are so


@dataclass(frozen=True)
class Choice:
    """A setting that is one of a few words (or whole numbers)."""

    default: str | int
    options: tuple[str | int, ...]
    help: str
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


Setting = Number | Choice


@dataclass(frozen=True)
class Metric:
    """One figure of the report: what it means, its range, and which way is better (None: neither).

    `optional`: NaN where there is nothing to measure, as the perplexity of a model without a codebook.
    """

    help: str
    low: float = 0.0
    high: float = 1.0
    higher_is_better: bool | None = True
    optional: bool = False


class Noise(NamedTuple):
    """Randomness that one example needs in one training step, drawn by the engine and passed in.

    `kind` is "normal" (standard), "uniform" ([0, 1)) or an integer n for whole numbers in [0, n).
    """

    kind: str | int
    shape: tuple[int, ...]


class Term(NamedTuple):
    """One part of a loss, unweighted.

    `values` f[B]; `active` f[B], 1 for the examples that take part and 0 for the others, or None when all
    do. The engine averages `values` over the active examples of the whole batch (all workers); no active
    example: 0.
    """

    values: Tensor
    active: Tensor | None = None


class Balance(NamedTuple):
    """Weights that a model learns: the loss is sum over terms of factors[t] weight_t term_t, plus `penalty`.

    `factors` f[T], in the order of `Family.terms`; `penalty` f[], which keeps them from vanishing.
    """

    factors: Tensor
    penalty: Tensor


class Replacement(NamedTuple):
    """New values for some entries of one parameter: where `where` (bool, its shape), it becomes `values`."""

    where: Tensor
    values: Tensor


class Picture(NamedTuple):
    """What `Family.draw` is given: `examples` of `split`. `name` begins the file names."""

    name: str
    examples: int
    split: str


class Measured(NamedTuple):
    """What `Family.measure` finds on one split: `scalars` by metric name, and `vectors` for figures and
    facts.
    """

    scalars: dict[str, float]
    vectors: dict[str, list[float]]


@dataclass
class Data:
    """A family's examples, resident as tensors, and the facts about them that models and losses need.

    `splits` maps "train", "val" and "test" to batches whose tensors share their first axis. `facts` holds
    plain values and tensors computed from the training split (class counts, sizes); `warnings` what a user
    should know.
    """

    splits: dict[str, Batch]
    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    def size(self, split: str) -> int:
        """Number of examples in `split`."""
        return len(next(iter(self.splits[split].values())))


class Family(ABC):
    """One model with a loss of several terms, its knobs, its metrics and its data."""

    name: str
    summary: str  # one line for `loss-search families`
    terms: tuple[str, ...]  # term t is weighted by the knobs t.weight, t.schedule, ... where it has them
    collapse_kinds: Mapping[str, str]  # kind -> when it shows
    sources: tuple[str, ...]  # the first is the default
    picture: Picture = Picture("reconstructions", 10, "train")

    knobs: Mapping[str, Setting]
    statics: Mapping[str, Setting]
    file_fields: Mapping[str, Field] = {}  # arrays of the npz file that source "file" reads
    data_settings: Mapping[str, Setting]  # beside `source` and `path`, which every family has
    metrics: Mapping[str, Metric]  # holds "selection_accuracy", by which trials are ranked
    trade_off: tuple[str, ...] = ()  # two metrics with a better side, of which more of one may cost the other

    @abstractmethod
    def load(self, settings: Mapping[str, Any]) -> Data:
        """Read or generate the data; `settings` holds `source`, `path` and every data setting.

        Raises BadData.
        """

    @abstractmethod
    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        """One model, as its own default initialisation leaves it. Its `forward(batch, noise, knobs)`
        returns a dict of tensors whose first axis is the example; `noise` is empty in evaluation
        (`self.training` False).

        Parameters whose last axes hold whole multiples of 4 numbers, better of 16, keep a trial equal to the
        last bit in every slot; a `Dense` weight of [7, 6] in a stack was seen to break that in its last bit.
        """

    @abstractmethod
    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        """The randomness that one training example needs, by name."""

    @abstractmethod
    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        """One trial's knobs as tensors (scalars, class-weight vectors), all shapes equal for all trials.

        Called once when a trial is admitted. Words become vectors or indices here, so that a stack can mix
        them.
        """

    def group(self, static: Mapping[str, Any]) -> int:
        """Examples that meet inside the model (candidates of one game): each run of this many stays together,
        in the order of `order` and of the other splits. What does not fill a group there is left out."""
        return 1

    def share(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per-example tensors [B, ...] (no gradient) whose mean over the whole batch `losses` needs."""
        return {}

    def join(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Per-example tensors [B, ...] that `losses` needs of every example of the whole batch, with their
        gradient: each arrives there as [workers * B, ...]. Not empty, it makes evaluation go in batches of
        training's size, so that such a term is comparable."""
        return {}

    @abstractmethod
    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        """Every term of `self.terms`, unweighted.

        `everyone` holds what `share` returned, averaged over the whole batch, and what `join` returned, of
        all its examples.
        """

    def balance(self, outputs: Mapping[str, Tensor], knobs: Mapping[str, Tensor]) -> Balance | None:
        """Weights of the terms that the model itself learns; None for a family whose models learn none."""
        return None

    def reweigh(
        self, knobs: Mapping[str, Any], scalars: Mapping[str, float], facts: Mapping[str, Any]
    ) -> dict[str, float]:
        """Factors on the terms' weights for the next epoch, from this epoch's validation metrics; a term that
        is not named has 1."""
        return {}

    def renew(
        self, parameters: Mapping[str, Tensor], examined: Mapping[str, Tensor], source: torch.Generator
    ) -> dict[str, Replacement]:
        """Parameters to replace after an epoch, by name, as when dead codes of a codebook are restarted.

        `parameters` are one member's, to be read only; `examined` what `examine` saw of its training epoch,
        in the order of training; `source` a CPU generator of this trial and epoch. Replaced entries begin
        with fresh moments.
        """
        return {}

    @abstractmethod
    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Per-example quantities [B, ...] from which `measure` computes the metrics of a split.

        Called without gradient; in training on the step's own outputs, with their noise.
        """

    @abstractmethod
    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        """The metrics of one member on one split, from `examine`'s tensors of all its examples.

        Sees no knob.
        """

    def label_counts(self, data: Data) -> dict[str, dict[str, list[int]]]:
        """For each kind of label: class name -> examples in train, val and test, for `data check`. A name in
        brackets, as "(no label)", is counted and is no class."""
        return {}

    @abstractmethod
    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        """`selection_accuracy` of guessing."""

    @abstractmethod
    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool | None]:
        """For each kind of `collapse_kinds`: do these validation metrics show it now? None: not to be judged
        with these static settings."""

    def collapse_is_judged(self, kind: str, knobs: Mapping[str, Any], full: Mapping[str, bool]) -> bool:
        """Whether `kind` can be judged in this epoch; `full[term]` says that a term's weight is at its
        full value.
        """
        return True

    @abstractmethod
    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        """A picture of one model's outputs on the examples that `self.picture` asks for, as a PNG at `path`.

        A file appears there whole or not at all.
        """

    def traps(self, space: Any, data: Data | None) -> list[str]:
        """Warnings of this family's known traps in a space (see families.md), printed at start and stored."""
        return []

    def order(self, knobs: Mapping[str, Any], data: Data, generator: torch.Generator) -> Tensor:
        """The training examples of one epoch in order, i64[N]: a permutation unless a family balances its
        classes.
        """
        return torch.randperm(data.size("train"), generator=generator)
