"""multitask: its terms, weights of tasks, sampling, metrics, collapse, pooling, traps and spaces."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from families import by_name, engine_of, job, run
from PIL import Image
from sklearn import metrics as oracle  # scikit-learn 1.9.1
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.func import vmap

from search.space import Space, load_space
from trainables.errors import BadData
from trainables.family import Data
from trainables.member import Job
from trainables.multitask import MULTITASK
from trainables.multitask_data import TASKS
from trainables.multitask_layers import POOLINGS, pool_views
from trainables.slots import default_knobs

CLASSES = {"action_class": 5, "severity": 3, "offence": 2}
COUNTS = {
    "action_class": torch.tensor([500.0, 250, 100, 40, 10], dtype=torch.float64),
    "severity": torch.tensor([800.0, 90, 10], dtype=torch.float64),
    "offence": torch.tensor([150.0, 750], dtype=torch.float64),
}
FACTS = {"counts": COUNTS, "class_names": {task: list(map(str, range(n))) for task, n in CLASSES.items()}}


def _knobs(**changes: Any) -> dict[str, Any]:
    return {**default_knobs(MULTITASK), **changes}


def _outputs(size: int = 40) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Logits of every task, and labels of which about a fifth is missing."""
    source = torch.Generator().manual_seed(0)
    outputs, batch = {}, {}
    for task, classes in CLASSES.items():
        outputs[task] = 2 * torch.randn(size, classes, generator=source, dtype=torch.float64)
        label = torch.randint(classes, (size,), generator=source)
        batch[task] = torch.where(torch.rand(size, generator=source) < 0.2, -1, label)
    outputs["log_variances"] = torch.tensor([0.3, -0.2, 1.0]).double().expand(size, 3)
    return outputs, batch


def _terms(outputs: dict[str, Tensor], batch: dict[str, Tensor], **changes: Any) -> dict[str, float]:
    terms = MULTITASK.losses(outputs, {}, batch, MULTITASK.prepare(_knobs(**changes), FACTS))
    assert set(terms) == set(TASKS)
    return {t: float((v.values * v.active).sum() / v.active.sum().clamp(min=1)) for t, v in terms.items()}


def _batch_of(name: str, size: int = 8) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    case = by_name(name)
    torch.manual_seed(0)
    model = case.family.build(case.full_static, case.load().facts)
    return model, {key: tensor[:size] for key, tensor in case.load().splits["train"].items()}


# ---- terms


def test_each_task_is_torchs_cross_entropy_over_the_examples_that_have_its_label():
    outputs, batch = _outputs()
    found = _terms(outputs, batch, label_smoothing=0.1)
    for task in TASKS:
        expected = F.cross_entropy(outputs[task], batch[task], ignore_index=-1, label_smoothing=0.1)
        assert found[task] == pytest.approx(expected.item(), rel=1e-12)


def test_kinds_and_exponents_are_each_tasks_own_and_gamma_counts_for_focal_alone():
    outputs, batch = _outputs()
    changes = {
        "action_class.kind": "focal",
        "action_class.gamma": 2.0,
        "severity.kind": "bce",
        "offence.gamma": 5.0,
    }
    found, plain = _terms(outputs, batch, **changes), _terms(outputs, batch)
    p = outputs["action_class"].softmax(-1)
    there = batch["action_class"] >= 0
    true = p[there].gather(1, batch["action_class"][there, None])[:, 0]
    assert found["action_class"] == pytest.approx(((1 - true) ** 2 * -true.log()).mean().item())
    there = batch["severity"] >= 0
    hot = F.one_hot(batch["severity"][there], 3).double()
    binary = F.binary_cross_entropy_with_logits(outputs["severity"][there], hot, reduction="none")
    assert found["severity"] == pytest.approx(binary.sum(-1).mean().item())
    assert found["offence"] == plain["offence"]


def test_class_weights_are_scikit_learns_balanced_ones_of_each_task():
    outputs, batch = _outputs()
    found = _terms(outputs, batch, **{"class_weights.method": "inverse", "class_weights.cap": 1e4})
    for task, counts in COUNTS.items():
        labels = np.repeat(np.arange(len(counts)), counts.long().numpy())
        weights = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
        there = batch[task] >= 0
        nll = F.cross_entropy(outputs[task][there], batch[task][there], reduction="none")
        expected = (nll * torch.from_numpy(weights)[batch[task][there]]).mean()
        assert found[task] == pytest.approx(expected.item(), rel=1e-9)


def test_effective_weights_follow_the_published_formula():
    """Cui et al. 2019: (1 - beta) / (1 - beta^n), here scaled to mean 1 over the training examples."""
    changes = {"class_weights.method": "effective", "class_weights.one_minus_beta": 0.01}
    prepared = MULTITASK.prepare(_knobs(**changes, **{"class_weights.cap": 1e4}), FACTS)
    for task, counts in COUNTS.items():
        raw = 0.01 / (1 - 0.99**counts)
        expected = raw * counts.sum() / (raw * counts).sum()
        torch.testing.assert_close(prepared[f"{task}.class_weights"], expected)


def test_logit_adjustment_changes_the_loss_and_not_the_answers():
    outputs, batch = _outputs()
    found = _terms(outputs, batch, **{"logit_adjustment.tau": 1.0})
    prepared = MULTITASK.prepare(_knobs(**{"logit_adjustment.tau": 1.0}), FACTS)
    for task, counts in COUNTS.items():
        adjusted = outputs[task] + (counts / counts.sum()).log()
        expected = F.cross_entropy(adjusted, batch[task], ignore_index=-1).item()
        assert found[task] == pytest.approx(expected, rel=1e-12)
        seen = MULTITASK.examine(outputs, batch, prepared)[f"{task}.predicted"]
        assert torch.equal(seen, outputs[task].argmax(-1))
        assert not torch.equal(seen, adjusted.argmax(-1)), "else the law would be empty"


def test_missing_labels_are_in_no_term_and_a_task_without_any_label_is_zero():
    outputs, batch = _outputs()
    outputs["severity"][batch["severity"] < 0] = 1e6
    without = {**batch, "offence": torch.full_like(batch["offence"], -1)}
    found = _terms(outputs, without)
    there = batch["severity"] >= 0
    expected = F.cross_entropy(outputs["severity"][there], batch["severity"][there]).item()
    assert found["severity"] == pytest.approx(expected, rel=1e-12)
    assert found["offence"] == 0.0


def test_active_examples_of_a_task_are_those_with_its_label():
    case = by_name("multitask")
    (report,) = engine_of(case, 1, {0: job(case, 0, sampling="natural")}).run_epoch()
    for task in TASKS:
        expected = (case.load().splits["train"][task] >= 0).sum().item()
        assert report.row[f"active.{task}"] == expected < 64 or task == "action_class"
    assert report.row["active.severity"] < 64


def test_prepared_knobs_of_all_trials_have_one_shape():
    case = by_name("multitask")
    prepared = [MULTITASK.prepare(case.knobs(n), case.load().facts) for n in range(len(case.knob_sets))]
    shapes = [{name: (tensor.shape, tensor.dtype) for name, tensor in one.items()} for one in prepared]
    assert all(one == shapes[0] for one in shapes)


def test_the_terms_run_under_vmap_as_member_by_member():
    outputs, batch = _outputs()
    members = [
        MULTITASK.prepare(_knobs(**case), FACTS)
        for case in (
            {},
            {"action_class.kind": "bce", "severity.kind": "focal", "label_smoothing": 0.2},
            {"offence.kind": "bce", "class_weights.method": "effective", "logit_adjustment.tau": 1.3},
        )
    ]
    knobs = {name: torch.stack([one[name] for one in members]) for name in members[0]}
    values = vmap(lambda k: {n: t.values for n, t in MULTITASK.losses(outputs, {}, batch, k).items()})
    together = values(knobs)
    for i, one in enumerate(members):
        for name, term in MULTITASK.losses(outputs, {}, batch, one).items():
            torch.testing.assert_close(together[name][i], term.values)


# ---- weights of tasks


@pytest.mark.parametrize("strategy", ["inverse_accuracy", "inverse_f1", "difficulty"])
def test_the_weights_of_an_epoch_follow_from_the_metrics_of_the_last_one(strategy: str):
    case = by_name("multitask")
    changes = {"task_weighting": strategy, "severity.weight": 3.0, "sampling": "natural"}
    reports = run(engine_of(case, 1, {0: job(case, 0, **changes)}), 3)[0]
    given = {"action_class": 1.0, "severity": 3.0, "offence": 1.0}
    assert {task: reports[0].row[f"weight.{task}"] for task in TASKS} == given
    for before, after in zip(reports, reports[1:], strict=False):
        accuracy = [before.row[f"val.{task}.accuracy"] for task in TASKS]
        f1 = [before.row[f"val.{task}.macro_f1"] for task in TASKS]
        raw = {
            "inverse_accuracy": [1 / (a + 0.1) for a in accuracy],
            "inverse_f1": [1 / (f + 0.1) for f in f1],
            "difficulty": [c / 10 + 1 - a for c, a in zip((8, 4, 2), accuracy, strict=True)],
        }[strategy]
        for task, value in zip(TASKS, raw, strict=True):
            expected = given[task] * 3 * value / sum(raw)
            assert after.row[f"weight.{task}"] == pytest.approx(expected, rel=1e-9)


def test_only_a_trial_with_uncertainty_learns_factors_and_its_neighbours_keep_theirs():
    case = by_name("multitask")
    changes = {"optim.lr": 0.02, "sampling": "natural"}
    jobs = {
        0: Job(0, 0, 8, _knobs(task_weighting="uncertainty", **changes)),
        1: Job(1, 0, 8, _knobs(task_weighting="uniform", **changes)),
    }
    engine = engine_of(case, 2, jobs)
    reports = run(engine, 8)
    learnt = engine.stack.read_row(0)["log_variances"]
    assert learnt.abs().min() > 0.05 and not engine.stack.read_row(1)["log_variances"].any()
    last = {task: reports[0][-1].row[f"weight.{task}"] for task in TASKS}
    # The last step's factors were in force before its update, which moves s by less than the rate.
    assert list(last.values()) == pytest.approx((-learnt).exp().tolist(), rel=0.03)
    # exp(-s) moves towards 1 / (2 L): below 1 while a loss is above one half, as it is at first.
    first = reports[0][0].row
    for task in TASKS:
        assert first[f"train.{task}"] > 0.55 and first[f"weight.{task}"] < 1
    assert [reports[1][-1].row[f"weight.{task}"] for task in TASKS] == [1.0, 1.0, 1.0]


# ---- sampling


def _data(action: list[int]) -> Data:
    label = torch.tensor(action)
    counts = torch.bincount(label[label >= 0], minlength=4).double()
    return Data(
        {"train": {"static": torch.zeros(len(label), 1), "action_class": label}},
        {"counts": {"action_class": counts}},
    )


def test_balanced_sampling_draws_every_action_class_equally_often_and_the_unlabelled_as_they_are():
    """60,000 draws: a share of 0.225 has a deviation of 0.0017; five of them fail once in two million."""
    data = _data(([0] * 60 + [1] * 25 + [3] * 5 + [-1] * 10) * 600)
    generator = torch.Generator().manual_seed(0)
    order = MULTITASK.order(_knobs(sampling="balanced"), data, generator)
    drawn = data.splits["train"]["action_class"][order]
    assert len(order) == 60_000 and order.dtype == torch.int64
    for label, share in ((0, 0.3), (1, 0.3), (2, 0.0), (3, 0.3), (-1, 0.1)):
        assert (drawn == label).double().mean().item() == pytest.approx(share, abs=0.01)


def test_natural_sampling_visits_every_example_once():
    order = MULTITASK.order(_knobs(), _data([0, 1, 2, 3, -1] * 20), torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(100))
    again = MULTITASK.order(_knobs(), _data([0, 1, 2, 3, -1] * 20), torch.Generator().manual_seed(1))
    assert not torch.equal(order, again)


# ---- metrics


def test_the_metrics_are_scikit_learns_on_the_labelled_examples():
    outputs, batch = _outputs(200)
    measured = MULTITASK.measure(MULTITASK.examine(outputs, batch, {}), FACTS)
    balanced = []
    for task in CLASSES:
        there = batch[task] >= 0
        truth, predicted = batch[task][there].numpy(), outputs[task].argmax(-1)[there].numpy()
        balanced.append(oracle.balanced_accuracy_score(truth, predicted))
        mean = outputs[task].softmax(-1)[there].mean(0)
        expected = {
            "accuracy": oracle.accuracy_score(truth, predicted),
            "balanced_accuracy": balanced[-1],
            "macro_f1": oracle.f1_score(truth, predicted, average="macro"),
            "majority_share": np.bincount(predicted).max() / len(predicted),
            "predicted_classes": len(np.unique(predicted)),
            "entropy": -(mean * mean.log()).sum().item(),
        }
        for name, value in expected.items():
            assert measured.scalars[f"{task}.{name}"] == pytest.approx(value, rel=1e-9), name
        recalls = oracle.recall_score(truth, predicted, average=None)
        assert measured.vectors[f"{task}.recall"] == pytest.approx(recalls.tolist())
    assert measured.scalars["selection_accuracy"] == pytest.approx(np.mean(balanced))
    assert measured.scalars.keys() == MULTITASK.metrics.keys()


def test_a_split_without_a_label_has_figures_and_no_nan():
    outputs, batch = _outputs()
    batch["severity"] = torch.full_like(batch["severity"], -1)
    scalars = MULTITASK.measure(MULTITASK.examine(outputs, batch, {}), FACTS).scalars
    assert all(math.isfinite(value) for value in scalars.values())
    assert scalars["severity.balanced_accuracy"] == 0.0


def test_chance_is_what_one_answer_to_everything_scores():
    outputs, batch = _outputs(300)
    for task in TASKS:
        outputs[task] = F.one_hot(torch.zeros(300, dtype=torch.long), CLASSES[task]).double()
    scored = MULTITASK.measure(MULTITASK.examine(outputs, batch, {}), FACTS).scalars["selection_accuracy"]
    assert MULTITASK.chance(FACTS, {}) == pytest.approx(scored) == pytest.approx((1 / 5 + 1 / 3 + 1 / 2) / 3)


def test_label_counts_name_the_classes_and_count_the_missing():
    case = by_name("multitask")
    table = MULTITASK.label_counts(case.load())
    for task in TASKS:
        assert list(table[task])[-1] == "(no label)"
        for number, split in enumerate(("train", "val", "test")):
            labels = case.load().splits[split][task]
            assert sum(row[number] for row in table[task].values()) == len(labels)
            assert table[task]["(no label)"][number] == (labels == -1).sum()
        first = next(iter(table[task].values()))
        assert first[0] == case.load().facts["counts"][task][0]


# ---- collapse


@pytest.mark.parametrize(
    ("logits", "collapsed"),
    [
        ([0.0, 3.0, 0.0], True),  # one answer, unsure: mean prediction far from one class
        ([[0.0, 3.0, 0.0], [2.0, 0.0, 0.0]], False),
        ([[0.0, 30.0, 0.0]] * 39 + [[0.1, 0.0, 0.0]], False),
        ([[0.0, 30.0, 0.0]] * 39999 + [[0.1, 0.0, 0.0]], True),  # two answers, one of them all but never
    ],
)
def test_a_task_has_collapsed_when_it_answers_one_class_and_the_others_are_told_apart(
    logits, collapsed: bool
):
    rows = torch.tensor(logits, dtype=torch.float64).view(-1, 3)
    size = len(rows) if len(rows) > 2 else 40
    outputs, batch = _outputs(size)
    batch["severity"] = torch.arange(size) % 3
    outputs["severity"] = rows.repeat(size // len(rows), 1)
    scalars = MULTITASK.measure(MULTITASK.examine(outputs, batch, {}), FACTS).scalars
    assert MULTITASK.collapsed(scalars) == {"action_class": False, "severity": collapsed, "offence": False}


def test_a_task_of_weight_zero_is_not_judged():
    assert MULTITASK.collapse_is_judged("severity", _knobs(), {})
    assert not MULTITASK.collapse_is_judged("severity", _knobs(**{"severity.weight": 0.0}), {})
    assert MULTITASK.collapse_is_judged("offence", _knobs(**{"severity.weight": 0.0}), {})


# ---- the model


@pytest.mark.parametrize("name", ["multitask", "multitask-max", "multitask-mean"])
def test_the_model_gives_logits_for_every_task_and_no_example_touches_another(name: str):
    model, batch = _batch_of(name)
    outputs = model(batch, {}, {})
    assert {task: tuple(outputs[task].shape) for task in TASKS} == {
        "action_class": (8, 8),
        "severity": (8, 4),
        "offence": (8, 2),
    }
    assert outputs["log_variances"].shape == (8, 3) and not outputs["log_variances"].any()
    alone = model({key: tensor[3:4] for key, tensor in batch.items()}, {}, {})
    torch.testing.assert_close(alone["severity"], outputs["severity"][3:4])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_sees_only_the_views_that_are_there(pooling: str):
    source = torch.Generator().manual_seed(1)
    views = torch.randn(4, 5, 6, generator=source, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [0]])
    score = torch.randn(6, generator=source, dtype=torch.float64)
    found = pool_views(views, mask, pooling, score)
    rubbish = torch.where(mask[..., None], views, torch.full_like(views, 1e9))
    torch.testing.assert_close(pool_views(rubbish, mask, pooling, score), found)
    for row, count in enumerate((5, 3, 1)):
        seen = views[row, :count]
        expected = {
            "mean": seen.mean(0),
            "max": seen.max(0).values,
            "attention": (seen @ score).softmax(0) @ seen,
        }[pooling]
        torch.testing.assert_close(found[row], expected)
    assert not found[3].any()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_example_without_any_view_gives_finite_gradients_that_do_not_reach_its_views(pooling: str):
    views = torch.randn(2, 3, 4, requires_grad=True)
    score = torch.randn(4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3])
    pool_views(views, mask, pooling, score).square().sum().backward()
    assert views.grad.isfinite().all() and views.grad[0, :2].any()
    assert not views.grad[1].any() and not views.grad[0, 2].any()
    assert score.grad is None or score.grad.isfinite().all()


def test_a_picture_shows_a_matrix_for_each_task(tmp_path: Path):
    model, batch = _batch_of("multitask", 64)
    facts = by_name("multitask").load().facts
    MULTITASK.draw(batch, model.eval()(batch, {}, {}), facts, tmp_path / "picture.png", "trial 0")
    with Image.open(tmp_path / "picture.png") as picture:
        width, height = picture.size
        assert width > 2 * height
        assert len(set(np.asarray(picture.convert("L")).flatten().tolist())) > 20
    assert [file.name for file in tmp_path.iterdir()] == ["picture.png"]


# ---- data, traps, spaces


def test_the_file_source_needs_a_path():
    defaults = {name: setting.default for name, setting in MULTITASK.data_settings.items()}
    with pytest.raises(BadData, match="data.path is not set"):
        MULTITASK.load({"source": "file", "path": None, **defaults})


def _space(tmp_path: Path, *knobs: str) -> Space:
    lines = [
        "family: multitask",
        "budget: {trials: 30, epochs: 20}",
        "knobs:",
        *(f"  {knob}" for knob in knobs),
    ]
    path = tmp_path / "space.yaml"
    path.write_text("\n".join([*lines, "  optim.lr: {float: [1.0e-4, 1.0e-2], log: true}"]))
    return load_space(path)


BOTH_SAMPLED = "sampling: {choice: [natural, balanced]}"
WEIGHTED = "class_weights.method: {choice: [none, inverse]}"
TAU = "logit_adjustment.tau: {float: [0.0, 2.0]}"
LEARNT = "task_weighting: {choice: [uniform, uncertainty]}"


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ([BOTH_SAMPLED], []),
        ([WEIGHTED], []),
        ([BOTH_SAMPLED, WEIGHTED], ["balanced while class_weights.method is inverse"]),
        (["sampling: balanced", "class_weights.method: effective"], ["is effective: rare action classes"]),
        ([BOTH_SAMPLED, WEIGHTED.replace("}", ", when: {sampling: natural}}")], []),
        ([WEIGHTED, BOTH_SAMPLED.replace("}", ", when: {class_weights.method: none}}")], []),
        ([BOTH_SAMPLED, TAU], ["balanced while logit_adjustment.tau"]),
        ([BOTH_SAMPLED, TAU.replace("}", ", when: {sampling: natural}}")], []),
        ([WEIGHTED, TAU], ["logit_adjustment.tau may be above 0 while class_weights.method"]),
        ([WEIGHTED, TAU.replace("}", ", when: {class_weights.method: none}}")], []),
        ([WEIGHTED, "logit_adjustment.tau: 0.0"], []),
        (
            [LEARNT, "severity.weight: {float: [0.2, 5.0]}"],
            ["severity.weight is searched while task_weighting"],
        ),
        ([LEARNT, "severity.weight: {float: [0.2, 5.0], when: {task_weighting: uniform}}"], []),
        ([LEARNT, "severity.weight: 2.0"], []),
        (["task_weighting: uniform", "severity.weight: {float: [0.2, 5.0]}"], []),
    ],
)
def test_corrections_that_overlap_are_warned_of_and_not_where_conditions_keep_them_apart(
    tmp_path: Path, knobs: list[str], words: list[str]
):
    found = MULTITASK.traps(_space(tmp_path, *knobs), None)
    assert len(found) == len(words), found
    for sentence, word in zip(found, words, strict=True):
        assert word in sentence and sentence.endswith(".") and "Add when:" in sentence


def test_the_shipped_space_searches_every_knob_but_three_of_the_optimiser_and_has_no_trap():
    space = load_space("multitask")
    assert set(space.knobs) - set(space.searched()) == {"optim.weight_decay", "optim.clip", "optim.warmup"}
    assert MULTITASK.traps(space, None) == []
    assert [preset.name for preset in space.presets] == [
        "plain",
        "balanced_sampling",
        "weighted_mixed",
        "full_adaptive",
    ]


def test_the_space_of_patterns_has_as_many_trials_as_presets_and_they_are_those_of_the_search():
    patterns, whole = load_space("multitask_patterns"), load_space("multitask")
    assert patterns.budget.trials == len(patterns.presets) == 4
    assert patterns.stop.prune is None
    wanted = {preset.name: whole.complete(whole.preset_values(preset)) for preset in whole.presets}
    for preset in patterns.presets:
        found, expected = patterns.complete(patterns.preset_values(preset)), wanted[preset.name]
        if (
            found["class_weights.method"] == "none"
        ):  # then beta has no effect, and the spaces may differ in it
            found["class_weights.one_minus_beta"] = expected["class_weights.one_minus_beta"]
        assert found == expected, preset.name
