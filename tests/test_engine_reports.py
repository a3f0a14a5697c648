"""What a report says: schedules in force, raw terms, active examples, collapse, and the best epoch."""

from __future__ import annotations

import math

import pytest
import torch
from families import CASES, Case, by_name, engine_of, ids, job, numbers, run

from trainables import keyed
from trainables.family import Noise
from trainables.schedules import learning_rate_at, weight_at

every_family = pytest.mark.parametrize("case", CASES, ids=ids)


@every_family
def test_the_weighted_validation_loss_is_the_sum_of_weights_times_raw_terms(case: Case):
    engine = engine_of(case, 3, {slot: job(case, slot) for slot in range(3)})
    for reports in run(engine, 2).values():
        for row in map(numbers, reports):
            total = sum(row[f"weight.{term}"] * row[f"val.{term}"] for term in case.family.terms)
            assert row["val.loss"] == pytest.approx(total, rel=1e-12)


@every_family
def test_a_row_has_every_metric_of_the_family_within_its_range(case: Case):
    engine = engine_of(case, 2, {0: job(case, 0)})
    (report,) = engine.run_epoch()
    for split in ("train", "val"):
        for name, metric in case.family.metrics.items():
            value = report.row[f"{split}.{name}"]
            within = metric.low - 1e-6 <= value <= metric.high + 1e-6
            assert within or (metric.optional and math.isnan(value)), name
    for kind in case.family.collapse_kinds:
        assert f"collapsed.{kind}" in report.row
    assert report.row["seconds"] > 0 and report.row["grad_norm"] > 0


def test_training_terms_are_unweighted_and_their_loss_is_weighted():
    """Constant weights and all examples active: the mean loss is the weighted sum of the mean terms."""
    case = by_name("tiny")
    engine = engine_of(case, 2, {0: job(case, 0, **{"penalty.weight": 7.0})}, dtype=torch.float64)
    (report,) = engine.run_epoch()
    row = report.row
    assert (row["weight.reconstruction"], row["weight.penalty"]) == (1.0, 7.0)
    total = row["train.reconstruction"] + 7 * row["train.penalty"]
    assert row["train.loss"] == pytest.approx(total, rel=1e-12)
    assert row["train.reconstruction"] == pytest.approx(row["train.error"], rel=1e-12)
    assert (row["active.reconstruction"], row["active.penalty"]) == (64, 64)


def test_validation_terms_are_those_of_the_model_on_the_whole_split():
    case = by_name("choosy")
    engine = engine_of(case, 2, {1: job(case, 2)}, dtype=torch.float64)
    (report,) = engine.run_epoch()
    split = engine.splits["val"]
    outputs = engine.predict(1, split)
    error = (outputs["restored"] - split["clean"]).square().mean(1)
    spread = (outputs["code"] - outputs["code"].mean(0)).square().mean(1)
    rare = (split["label"] == 1) & (split["x"][:, 0] > -0.1)
    assert 0 < rare.sum() < 31
    expected = {
        "reconstruction": error.mean().item(),
        "penalty": spread.mean().item(),
        "rare": error[rare].mean().item(),
    }
    for term, value in expected.items():
        assert report.row[f"val.{term}"] == pytest.approx(value, rel=1e-12)


def test_active_examples_are_counted_and_averaged_over_alone():
    """At a rate that moves nothing an epoch is one pass of the model over its order, with its noise."""
    case = by_name("choosy")
    one = job(case, 2, **{"rare.floor": -0.1, "optim.lr": 1e-12})
    engine = engine_of(case, 2, {0: one}, dtype=torch.float64)
    (report,) = engine.run_epoch()
    order = torch.randperm(64, generator=keyed.generator(one.seed, "order"))
    noise = keyed.draw(Noise("normal", (4,)), 64, keyed.generator(one.seed, "code"))
    model = case.family.build(case.full_static, {}).double()
    model.load_state_dict(engine.stack.read_row(0))
    batch = {name: tensor[order] for name, tensor in engine.splits["train"].items()}
    outputs = model(batch, {"code": noise.double()}, {})
    error = (outputs["restored"] - outputs["clean"]).square().mean(1)
    active = (batch["label"] == 1) & (batch["x"][:, 0] > -0.1)
    assert report.row["active.rare"] == active.sum() and 0 < active.sum() < 64
    assert report.row["train.rare"] == pytest.approx(error[active].mean().item(), rel=1e-6)
    assert report.row["train.rare"] != pytest.approx(error.mean().item(), rel=1e-3)


def test_a_term_without_an_active_example_is_zero_and_says_so_and_harms_nothing():
    case = by_name("choosy")
    silent = {"rare.floor": 100.0, "rare.weight": 10.0}
    engine = engine_of(case, 2, {0: job(case, 0, **silent), 1: job(case, 2)})
    reports = run(engine, 2)
    for report in reports[0]:
        assert (report.row["active.rare"], report.row["train.rare"], report.row["val.rare"]) == (0, 0.0, 0.0)
        assert not report.diverged and math.isfinite(report.row["train.loss"])
    assert reports[2][0].row["active.rare"] > 0


def test_members_of_one_stack_follow_their_own_schedules_from_their_own_epochs():
    case = by_name("choosy")
    knobs = {"penalty.weight": 2.0, "penalty.schedule": "linear", "penalty.start": 0.2}
    rates = {"optim.schedule": "warmup_cosine", "optim.warmup": 0.3}
    engine = engine_of(case, 2, {0: job(case, 0, epochs=4, **knobs, **rates)})
    first = run(engine, 2)[0]
    engine.admit(job(case, 1, epochs=10, **knobs, **rates), 1)
    later = run(engine, 2)
    for number, epochs, reports in ((0, 4, first + later[0]), (1, 10, later[1])):
        for epoch, report in enumerate(reports):
            assert report.epoch == epoch + 1
            last_step = (epoch + 3 / 4) / epochs
            weight = weight_at(last_step, weight=2.0, schedule="linear", start=0.2)
            assert report.row["weight.penalty"] == pytest.approx(float(weight), abs=1e-12)
            lr = case.knobs(number)["optim.lr"]
            rate = learning_rate_at(last_step, lr=lr, schedule="warmup_cosine", warmup=0.3)
            assert report.row["lr"] == pytest.approx(float(rate), rel=1e-12)
    assert [report.done for report in first + later[0]] == [False, False, False, True]


def test_a_schedule_takes_effect_within_an_epoch_step_by_step():
    """One epoch of four steps, delayed to the middle: it trains unlike one without, and unlike one with."""
    case, final = by_name("tiny"), []
    for start in (0.0, 0.5, 0.9):
        knobs = {"penalty.weight": 5.0, "penalty.schedule": "delayed", "penalty.start": start}
        engine = engine_of(case, 1, {0: job(case, 0, epochs=1, **knobs)})
        run(engine, 1)
        final.append(engine.stack.rows.detach().clone())
    assert not torch.equal(final[0], final[1]) and not torch.equal(final[1], final[2])


def test_an_adaptive_weight_starts_at_chance_and_follows_the_last_epochs_training_accuracy():
    case = by_name("choosy")
    knobs = {"rare.weight": 4.0, "rare.schedule": "adaptive", "optim.lr": 0.05}
    reports = run(engine_of(case, 2, {0: job(case, 0, **knobs)}), 5)[0]
    accuracies = [0.5, *(report.row["train.selection_accuracy"] for report in reports)]
    for accuracy, report in zip(accuracies, reports, strict=False):
        assert report.row["weight.rare"] == pytest.approx(4 * accuracy, rel=1e-12)
    assert len(set(accuracies)) > 2


def test_collapse_is_judged_only_while_the_weight_is_full():
    case = by_name("tiny")
    knobs = {"penalty.weight": 1.0, "penalty.schedule": "linear", "penalty.start": 0.25}
    reports = run(engine_of(case, 1, {0: job(case, 0, epochs=8, **knobs)}), 8)[0]
    judged = [not math.isnan(report.row["collapsed.code"]) for report in reports]
    full = [report.row["weight.penalty"] == 1.0 for report in reports]
    assert judged == full and True in judged and False in judged
    assert reports[-1].row["collapsed.code"] in (0.0, 1.0)


@pytest.mark.parametrize(("objective", "maximise"), [("selection_accuracy", True), ("error", False)])
def test_the_best_epoch_is_the_first_that_no_other_beats_and_its_model_is_kept(
    objective: str, maximise: bool
):
    case = by_name("tiny")
    late = {"penalty.schedule": "delayed", "penalty.start": 0.5}  # from there on the error grows again
    wild = {"optim.lr": 0.05, "penalty.weight": 10.0, **late}
    settings = {"objective": objective, "maximise": maximise}
    engine = engine_of(case, 2, {1: job(case, 3, epochs=12, **wild)}, **settings)
    values, models = [], []
    for _ in range(12):
        (report,) = engine.run_epoch()
        values.append(report.row[f"val.{objective}"])
        models.append(engine.stack.rows[1].detach().clone())
    best = values.index(max(values) if maximise else min(values))
    member = engine.members[1]
    assert best < 11, "a best that is the last would not be told from the last"
    assert member.best_epoch == best + 1
    assert torch.equal(member.best_row, models[best])
    assert member.best_value == (values[best] if maximise else -values[best])
