"""multitask: one trunk, three imbalanced tasks, where the frequent classes alone score high accuracy.

    static f[F] ──► encoder ─────────────────────┐
    views f[V, G] ──► encoder ──► masked pooling ┴──► trunk ──► a head a task ──► logits f[C_t]

    loss      sum over tasks of factor_t weight_t term_t (+ penalty, where the factors are learnt)
    term_t    mean over the examples with a label, targets smoothed, of one of three kinds:
      ce      w_y (-log p_y)
      focal   w_y (1 - p_y)^gamma (-log p_y)                                       Lin et al. 2017, eq. 5
      bce     w_y (-log p_y - sum over c != y of log(1 - p_c)), p_c one-vs-rest    Cui et al. 2019, section 4
    p         of logits + tau log(prior), in training only                         Menon et al. 2021, eq. 10
    factor_t  1, or from the last epoch's validation metrics (trainables.task_weights), or learnt: exp(-s_t),
              penalty sum over tasks of s_t / 2                                    Kendall et al. 2018, eq. 10

The knobs correct for imbalance in five ways, each of them published alone, and they overlap: two at once
correct twice. Trials are ranked by the mean over tasks of balanced accuracy, in which every class counts the
same; accuracy rewards a model that never answers a rare class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables import metrics, multitask_pictures, multitask_traps
from trainables.class_weights import class_weights
from trainables.classification import KINDS, classification_loss, labelled, logit_adjustment
from trainables.data import class_counts
from trainables.family import (
    Balance,
    Batch,
    Choice,
    Data,
    Family,
    Measured,
    Metric,
    Noise,
    Number,
    Picture,
    Term,
)
from trainables.knobs import class_weight_knobs, optimiser_knobs, weight_knobs
from trainables.layers import Dense
from trainables.multitask_data import FILE_FIELDS, TASKS, example_file, synthetic_examples
from trainables.multitask_layers import POOLINGS, hidden, pool_views
from trainables.task_weights import STRATEGIES, learnt_weights, task_factors

ONE_ANSWER = 0.01  # nats of the mean prediction: in two classes, less than 0.13 % of it for the second
TASK_METRICS = {  # of each task, on the examples that have its label
    "accuracy": Metric("share of examples right; high for a model that knows only frequent classes"),
    "balanced_accuracy": Metric("mean over classes of recall"),
    "macro_f1": Metric("mean over classes of F1"),
    "majority_share": Metric("share of the predictions that fall to one class", higher_is_better=None),
    "predicted_classes": Metric("classes that are predicted at all", high=math.inf, higher_is_better=None),
    "entropy": Metric("entropy of the mean prediction, nats", high=math.inf, higher_is_better=None),
}


class MultiTaskNet(nn.Module):
    """One classifier. forward: static f[B, F], views f[B, V, G], view_mask bool[B, V] -> `<task>` logits
    f[B, C_t] for each task, and log_variances f[B, T], the same for every example.
    """

    def __init__(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        super().__init__()
        width, self.pooling = static["width"], static["pooling"]
        self.static_encoder = nn.Sequential(*hidden(facts["num_features"], width))
        self.view_encoder = nn.Sequential(*hidden(facts["num_view_features"], width))
        # A vector without a bias, which softmax would cancel: AdamW would make steps of its rounding errors.
        self.score = nn.Parameter(torch.randn(width) / width**0.5) if self.pooling == "attention" else None
        inner = [layer for _ in range(static["depth"] - 1) for layer in hidden(width, width)]
        self.trunk = nn.Sequential(*hidden(2 * width, width), *inner)
        self.heads = nn.ModuleDict({task: Dense(width, len(facts["class_names"][task])) for task in TASKS})
        self.log_variances = nn.Parameter(torch.zeros(len(TASKS)))

    def forward(
        self, batch: Batch, noise: Mapping[str, Tensor], knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        views = self.view_encoder(batch["views"])
        pooled = pool_views(views, batch["view_mask"], self.pooling, self.score)
        features = self.trunk(torch.cat([self.static_encoder(batch["static"]), pooled], -1))
        logits = {task: head(features) for task, head in self.heads.items()}
        return {**logits, "log_variances": self.log_variances.expand(len(features), len(TASKS))}


class MultiTask(Family):
    name = "multitask"
    summary = (
        "imbalanced multi-task classifier over several views: loss kinds, class, task and sampling weights"
    )
    terms = TASKS
    collapse_kinds = {
        task: f"{task} is answered with one class: no other is predicted, or the mean prediction has an "
        "entropy below 0.01 nats; not judged where its weight is 0"
        for task in TASKS
    }
    sources = ("synthetic", "file")
    picture = Picture("confusion", 1024, "val")

    knobs = {
        **{
            name: knob
            for task in TASKS
            for name, knob in {
                **weight_knobs(task, 1.0, 100.0, f"weight of {task}"),
                f"{task}.kind": Choice(
                    "ce", KINDS, "cross-entropy, focal loss or one-vs-rest binary cross-entropy"
                ),
                f"{task}.gamma": Number(
                    2.0,
                    0.0,
                    5.0,
                    "focal exponent; 0 is cross-entropy",
                    when={f"{task}.kind": ("focal",)},
                ),
            }.items()
        },
        **class_weight_knobs("classes of every task"),
        "label_smoothing": Number(0.0, 0.0, 0.5, "share of each target spread evenly over the classes"),
        "logit_adjustment.tau": Number(
            0.0, 0.0, 2.0, "log priors added to the logits in training only; 1 aims at balanced error"
        ),
        "task_weighting": Choice(
            "uniform",
            STRATEGIES,
            "factors on the tasks' weights, renewed every epoch, or learnt (uncertainty)",
        ),
        "sampling": Choice(
            "natural", ("natural", "balanced"), "balanced: each action class is drawn equally often"
        ),
        **optimiser_knobs(),
    }
    statics = {
        "pooling": Choice("attention", POOLINGS, "how the views of an example become one vector"),
        "width": Number(64, 8, 2048, "width of the hidden layers", integer=True),
        "depth": Number(2, 1, 8, "hidden layers of the trunk", integer=True),
        "batch_size": Number(128, 2, 4096, "examples in a step, over all workers of an engine", integer=True),
    }
    file_fields = FILE_FIELDS
    data_settings = {
        "size": Number(8192, 64, 1_000_000, "training examples of the synthetic source", integer=True),
        "imbalance": Number(100.0, 1.0, 1000.0, "its most frequent action class over its rarest"),
        "noise": Number(1.0, 0.0, 10.0, "deviation of what hides its classes"),
        "seed": Number(0, 0, 2**31 - 1, "seed of the synthetic source", integer=True),
    }
    trade_off = ("selection_accuracy", "action_class.accuracy")
    metrics = {
        "selection_accuracy": Metric("mean over tasks of balanced accuracy"),
        **{f"{task}.{name}": metric for task in TASKS for name, metric in TASK_METRICS.items()},
    }

    def load(self, settings: Mapping[str, Any]) -> Data:
        if settings["source"] == "file":
            examples = example_file(settings["path"])
        else:
            difficulty = {"imbalance": settings["imbalance"], "noise": settings["noise"]}
            examples = synthetic_examples(settings["size"], **difficulty, seed=settings["seed"])
        return Data(examples.splits, examples.facts, examples.warnings)

    def build(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> nn.Module:
        return MultiTaskNet(static, facts)

    def noise(self, static: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Noise]:
        return {}

    def prepare(self, knobs: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Tensor]:
        prepared = {
            "label_smoothing": torch.tensor(knobs["label_smoothing"], dtype=torch.float64),
            "learnt": torch.tensor(knobs["task_weighting"] == "uncertainty"),
        }
        for task, counts in facts["counts"].items():
            kind = knobs[f"{task}.kind"]
            gamma = knobs[f"{task}.gamma"] if kind == "focal" else 0.0  # cross-entropy is focal loss with 0
            prepared[f"{task}.gamma"] = torch.tensor(gamma, dtype=torch.float64)
            prepared[f"{task}.one_vs_rest"] = torch.tensor(kind == "bce")
            prepared[f"{task}.class_weights"] = class_weights(
                counts,
                knobs["class_weights.method"],
                one_minus_beta=knobs["class_weights.one_minus_beta"],
                cap=knobs["class_weights.cap"],
            )
            prepared[f"{task}.adjustment"] = logit_adjustment(counts, knobs["logit_adjustment.tau"], kind)
        return prepared

    def losses(
        self,
        outputs: Mapping[str, Tensor],
        everyone: Mapping[str, Tensor],
        batch: Batch,
        knobs: Mapping[str, Tensor],
    ) -> dict[str, Term]:
        terms = {}
        for task in TASKS:
            target, there = labelled(batch[task])
            values = classification_loss(
                outputs[task],
                target,
                class_weights=knobs[f"{task}.class_weights"],
                gamma=knobs[f"{task}.gamma"],
                one_vs_rest=knobs[f"{task}.one_vs_rest"],
                label_smoothing=knobs["label_smoothing"],
                adjustment=knobs[f"{task}.adjustment"],
            )
            terms[task] = Term(values, there.to(values.dtype))
        return terms

    def balance(self, outputs: Mapping[str, Tensor], knobs: Mapping[str, Tensor]) -> Balance:
        return learnt_weights(outputs["log_variances"][0], knobs["learnt"])

    def reweigh(
        self, knobs: Mapping[str, Any], scalars: Mapping[str, float], facts: Mapping[str, Any]
    ) -> dict[str, float]:
        def of_tasks(name: str) -> dict[str, float]:
            return {task: scalars[f"{task}.{name}"] for task in TASKS}

        return task_factors(
            knobs["task_weighting"],
            accuracy=of_tasks("accuracy"),
            macro_f1=of_tasks("macro_f1"),
            num_classes={task: len(names) for task, names in facts["class_names"].items()},
        )

    def examine(
        self, outputs: Mapping[str, Tensor], batch: Batch, knobs: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        examined = {}
        for task in TASKS:
            examined[f"{task}.target"] = batch[task]
            examined[f"{task}.predicted"] = outputs[task].argmax(-1)
            examined[f"{task}.probabilities"] = outputs[task].softmax(-1)
        return examined

    def measure(self, examined: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Measured:
        scalars, vectors = {}, {}
        for task in TASKS:
            target, predicted = examined[f"{task}.target"], examined[f"{task}.predicted"]
            classes = examined[f"{task}.probabilities"].shape[-1]
            confusion = metrics.confusion(target[None], predicted[None], classes)[0].double()
            probabilities = examined[f"{task}.probabilities"][target >= 0].double()
            mean = probabilities.sum(0) / max(1, len(probabilities))
            found = {
                "accuracy": metrics.accuracy(confusion),
                "balanced_accuracy": metrics.balanced_accuracy(confusion),
                "macro_f1": metrics.macro_f1(confusion),
                "majority_share": metrics.majority_share(confusion),
                "predicted_classes": float((confusion.sum(0) > 0).sum()),
                "entropy": float(torch.special.entr(mean).sum()),
            }
            scalars |= {f"{task}.{name}": value for name, value in found.items()}
            vectors[f"{task}.recall"] = metrics.recalls(confusion)
        balanced = [scalars[f"{task}.balanced_accuracy"] for task in TASKS]
        return Measured({"selection_accuracy": sum(balanced) / len(balanced), **scalars}, vectors)

    def label_counts(self, data: Data) -> dict[str, dict[str, list[int]]]:
        table: dict[str, dict[str, list[int]]] = {}
        for task, names in data.facts["class_names"].items():
            labels = [split[task] for split in data.splits.values()]
            counts = [class_counts(label[label >= 0], len(names)).long().tolist() for label in labels]
            rows = {name: [split[c] for split in counts] for c, name in enumerate(names)}
            table[task] = {**rows, "(no label)": [int((label < 0).sum()) for label in labels]}
        return table

    def chance(self, facts: Mapping[str, Any], static: Mapping[str, Any]) -> float:
        """Mean over tasks of 1 / C, for one answer to everything has recall 1 in one class of C."""
        shares = [1 / len(names) for names in facts["class_names"].values()]
        return sum(shares) / len(shares)

    def collapsed(self, scalars: Mapping[str, float]) -> dict[str, bool | None]:
        return {
            task: scalars[f"{task}.predicted_classes"] <= 1 or scalars[f"{task}.entropy"] < ONE_ANSWER
            for task in TASKS
        }

    def collapse_is_judged(self, kind: str, knobs: Mapping[str, Any], full: Mapping[str, bool]) -> bool:
        return knobs[f"{kind}.weight"] > 0  # a task that is not trained has nothing to lose

    def draw(
        self,
        batch: Batch,
        outputs: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        path: Path,
        title: str,
    ) -> None:
        counts = {}
        for task in TASKS:
            predicted, classes = outputs[task].argmax(-1), outputs[task].shape[-1]
            counts[task] = metrics.confusion(batch[task][None], predicted[None], classes)[0]
        multitask_pictures.draw_confusions(counts, facts["class_names"], path, title)

    def traps(self, space: Any, data: Data | None) -> list[str]:
        return multitask_traps.traps(space)

    def order(self, knobs: Mapping[str, Any], data: Data, generator: torch.Generator) -> Tensor:
        """A permutation; balanced: draws with replacement in which the labelled rows of every action class
        have one chance together, and rows without that label keep their share."""
        if knobs["sampling"] == "natural":
            return super().order(knobs, data, generator)
        target, there = labelled(data.splits["train"]["action_class"])
        counts = data.facts["counts"]["action_class"]
        each = counts.sum() / ((counts > 0).sum() * counts.clamp(min=1))
        chances = torch.where(there, each[target], torch.ones_like(each[target]))
        return torch.multinomial(chances, len(target), replacement=True, generator=generator)


MULTITASK = MultiTask()
