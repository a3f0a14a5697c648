"""What an analysis says of searches whose truth is planted, and of trials that say nothing."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import KNOBS, PlantedSpace, drawn, row, searched_rows, table, truth

from search.analyse import analyse, front_of
from search.best_so_far import best_so_far, expected_best
from search.collapses import collapses, range_in_words, wilson
from search.columns import read_columns
from search.effects import effects
from search.forest import fit_forest
from search.importance import importance
from search.interactions import strongest_interaction
from search.trade_offs import pareto_front


def random_rows(n: int, together: float = 0.0, noise: float = 0.03, seed: int = 0) -> list[dict]:
    random = np.random.default_rng(seed)
    configurations = [drawn(random) for _ in range(n)]
    return [
        row(i, values, truth(values, "lr", together) + noise * random.standard_normal())
        for i, values in enumerate(configurations)
    ]


@pytest.fixture(scope="module")
def planted():
    """A random search of 150 trials in which lr matters, with its forest."""
    columns = read_columns(table(random_rows(150)), PlantedSpace("random"))
    return columns, fit_forest(columns)


# ---------------------------------------------------------------------- columns


def test_a_column_holds_each_value_s_place_in_its_range_and_nothing_where_it_is_out_of_force():
    rows = [
        row(
            0, {"lr": 1e-4, "gamma": 4.0, "method": "none", "depth": 1, "idle": 0.5, "idle_choice": "a"}, 0.1
        ),
        row(1, {"lr": 1e-1, "gamma": 0.0, "method": "sqrt", "cap": 100.0, "depth": 8, "idle": 0.0}, 0.2),
    ]
    columns = read_columns(table(rows), PlantedSpace())
    assert columns.settings["lr"].unit.tolist() == [0.0, 1.0]
    assert columns.settings["method"].unit.tolist() == [0.0, 2.0]
    assert columns.settings["cap"].in_force.tolist() == [False, True]
    assert columns.settings["cap"].unit[1] == pytest.approx(0.5)
    assert columns.settings["cap"].value_at(0.5) == pytest.approx(100.0)


def test_a_recorded_value_whose_condition_does_not_hold_is_out_of_force():
    rows = [row(0, {"method": "none", "cap": 100.0}, 0.1), row(1, {"method": "sqrt", "cap": 100.0}, 0.1)]
    assert read_columns(table(rows), PlantedSpace()).settings["cap"].in_force.tolist() == [False, True]


def test_trials_that_have_not_ended_and_confirmations_are_passed_over():
    rows = random_rows(4)
    rows[1]["state"], rows[2]["phase"] = "RUNNING", "confirm"
    assert read_columns(table(rows), PlantedSpace()).numbers.tolist() == [0, 3]


def test_a_trial_without_a_score_counts_as_the_worst_that_has_one():
    rows = [row(i, {}, score) for i, score in enumerate([0.5, None, 0.2])]
    assert read_columns(table(rows), PlantedSpace()).goodness.tolist() == [0.5, 0.2, 0.2]
    assert read_columns(table(rows), PlantedSpace(maximize=False)).goodness.tolist() == [-0.5, -0.5, -0.2]


# ---------------------------------------------------------------------- importance and effects


def test_the_planted_knob_is_most_important_and_shares_sum_to_one(planted):
    found = importance(*planted, resamples=5)
    assert found.enough and found.knobs[0].name == "lr"
    assert sum(knob.share for knob in found.knobs) == pytest.approx(1.0)
    assert all(0 <= knob.low <= knob.share <= knob.high <= 1 for knob in found.knobs)
    assert found.sentence.startswith("lr mattered most")
    cap = next(knob for knob in found.knobs if knob.name == "cap")
    assert cap.conditional and cap.trials < 150


def test_shares_are_those_of_optuna_s_own_evaluators():
    columns = read_columns(table(random_rows(40)), PlantedSpace("random"))
    found = importance(columns, fit_forest(columns), resamples=2)
    study = optuna.create_study(direction="maximize")
    for place, score in enumerate(columns.scores.tolist()):
        held = {name: one.values[place] for name, one in columns.settings.items() if one.in_force[place]}
        of = {name: _distribution(name) for name in held}
        study.add_trial(optuna.trial.create_trial(params=held, distributions=of, value=score))
    rated = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.2).evaluate(study)
    total = sum(rated.values())
    for knob in found.knobs:
        assert knob.ped_anova == pytest.approx(rated[knob.name] / total)


def _distribution(name: str):
    p = KNOBS[name]
    if p.kind == "choice":
        return optuna.distributions.CategoricalDistribution(list(p.choices))
    if p.kind == "int":
        return optuna.distributions.IntDistribution(p.low, p.high)
    return optuna.distributions.FloatDistribution(p.low, p.high, log=p.log)


def test_scores_that_are_noise_give_no_importance():
    """False failures: the test of skill lets noise pass once in 20 or less; 3 of 4 fixed seeds is safe."""
    said = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        rows = [row(i, drawn(random), random.standard_normal()) for i in range(40)]
        columns = read_columns(table(rows), PlantedSpace("random"))
        said.append(importance(columns, fit_forest(columns), resamples=2))
    refused = [found for found in said if not found.enough]
    assert len(refused) >= 3
    assert all("not enough data" in found.sentence and found.knobs == [] for found in refused)


def test_a_knob_that_was_seldom_in_force_is_not_rated_with_confidence():
    rows = [one | {"knob.cap": None, "knob.method": "none"} for one in random_rows(40)]
    for one in rows[:5]:
        one |= {"knob.method": "sqrt", "knob.cap": 10.0 + one["trial"]}
    columns = read_columns(table(rows), PlantedSpace("random"))
    found = importance(columns, fit_forest(columns), resamples=2)
    assert {knob.name: knob.enough for knob in found.knobs if not knob.enough} == {"cap": False}
    assert found.sentence.endswith("Too seldom in force to be rated: cap.")


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "no setting varied"),
        (random_rows(5), "5 trials have a score, and 12 are needed"),
        ([one | {"objective": 0.5} for one in random_rows(30)], "all scores are equal"),
    ],
)
def test_too_little_to_rate_is_said(rows, why):
    analysis = analyse(table(rows), PlantedSpace())
    assert why in analysis.importance.sentence
    assert analysis.interaction is None
    assert all(not effect.enough for effect in analysis.effects.values())


def test_an_effect_has_its_best_near_the_planted_optimum(planted):
    found = effects(*planted)
    lr = found["lr"]
    optimum = 1e-4 * 1000**0.3
    assert lr.clear and optimum / 3 < lr.best < optimum * 3
    assert 0.1 < lr.gain < 0.3  # of 0.28 between the optimum and the far end
    assert all(low <= mean <= high for low, mean, high in zip(lr.low, lr.mean, lr.high, strict=True))
    assert not found["idle"].clear and not found["idle_choice"].clear
    assert (
        found["cap"].conditional and len(found["cap"].points_x) == planted[0].settings["cap"].in_force.sum()
    )
    assert found["depth"].x == list(range(1, 9)) and found["method"].x == list(KNOBS["method"].choices)


def test_a_minimised_score_is_a_mirror_image(planted):
    turned = [one | {"objective": -one["objective"]} for one in random_rows(150)]
    columns = read_columns(table(turned), PlantedSpace("random", maximize=False))
    lr, mirrored = effects(*planted)["lr"], effects(columns, fit_forest(columns))["lr"]
    assert mirrored.best == lr.best
    assert np.array(mirrored.mean) == pytest.approx(-np.array(lr.mean))
    assert mirrored.gain == pytest.approx(lr.gain)


def test_a_planted_interaction_is_found_and_a_sum_of_effects_has_none(planted):
    none = strongest_interaction(*planted, among=["lr", "gamma", "depth"])
    assert not none.clear and "more than chance" in none.sentence
    columns = read_columns(table(random_rows(150, together=0.8)), PlantedSpace("random"))
    found = strongest_interaction(columns, fit_forest(columns), among=["lr", "gamma", "depth"])
    assert {found.first, found.second} == {"lr", "gamma"} and found.clear
    assert np.shape(found.values) == (len(found.y), len(found.x))


# ---------------------------------------------------------------------- best so far


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=5))
def test_the_expected_best_is_the_mean_over_all_draws(values):
    from itertools import combinations

    for n, expected in enumerate(expected_best(np.array(values)), start=1):
        every = [max(drawn_values) for drawn_values in combinations(values, n)]
        assert expected == pytest.approx(np.mean(every), abs=1e-9)


def test_the_expected_best_of_many_draws_is_monotone_and_ends_at_the_best():
    values = np.random.default_rng(0).normal(size=5000)
    expected = expected_best(values)
    assert (np.diff(expected) >= -1e-9).all()
    assert expected[-1] == pytest.approx(values.max()) and expected[0] == pytest.approx(values.mean())


def test_best_so_far_follows_the_order_in_which_trials_ended():
    rows = [row(i, {}, score) for i, score in enumerate([0.1, 0.5, None, 0.3])]
    rows[1]["finished_at"] = 1_700_000_009.0  # the second trial ended last
    found = best_so_far(read_columns(table(rows), PlantedSpace()))
    assert found.numbers == [0, 2, 3, 1]
    assert found.best == [0.1, 0.1, 0.3, 0.5]
    assert found.epochs == [20, 40, 60, 80]
    assert found.random is None and "Too few trials were drawn at random (4)" in found.caveat


def test_presets_and_later_trials_are_no_random_draws():
    rows = searched_rows(PlantedSpace("tpe"), 14)
    rows[0]["preset"] = "habit"
    found = best_so_far(read_columns(table(rows), PlantedSpace("tpe")))
    assert found.random_trials == 9 and len(found.random) == 9
    assert len(found.shuffled) == 14 and found.shuffled[-1] == pytest.approx(found.best[-1])


def test_a_grid_makes_no_random_draws_and_a_random_search_only_such():
    rows = random_rows(12)
    grid, random = (best_so_far(read_columns(table(rows), PlantedSpace(one))) for one in ("grid", "random"))
    assert grid.random is None and grid.caveat.startswith("A grid draws nothing")
    assert random.random_trials == 12 and random.random == pytest.approx(random.shuffled)
    assert random.sentence.endswith("on average.")


def test_a_search_without_any_score_is_no_error():
    analysis = analyse(table([row(i, {}, None) for i in range(3)]), PlantedSpace())
    assert analysis.best_so_far.best == [None] * 3
    assert analysis.best_so_far.sentence == "No trial has a score."
    json.dumps(dataclasses.asdict(analysis.best_so_far), allow_nan=False)


# ---------------------------------------------------------------------- trade-offs


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12),
    st.tuples(st.booleans(), st.booleans()),
)
@settings(deadline=None)
def test_the_front_is_what_no_trial_beats(points, maximize):
    x, y = np.array(points, dtype=float).T
    front = pareto_front(np.arange(len(points)), x, y, ("x", "y"), maximize)
    a, b = x * (1 if maximize[0] else -1), y * (1 if maximize[1] else -1)
    unbeaten = {
        i
        for i in range(len(points))
        if not any(a[j] >= a[i] and b[j] >= b[i] and (a[j] > a[i] or b[j] > b[i]) for j in range(len(points)))
    }
    assert set(front.numbers) == unbeaten


def test_trials_without_one_of_the_metrics_are_left_out_of_a_front():
    rows = [
        row(i, {}, 0.1) | {"best.val.a": a, "best.val.b": b} for i, (a, b) in enumerate([(1, 2), (2, None)])
    ]
    front = front_of(table(rows), "best.val.a", "best.val.b", (True, True))
    assert front.all_numbers == front.numbers == [0]
    with pytest.raises(KeyError, match="best.val.c"):
        front_of(table(rows), "best.val.a", "best.val.c", (True, True))


# ---------------------------------------------------------------------- collapses


def test_collapse_is_placed_where_it_lives():
    rows = random_rows(60)
    for one in rows:
        if one["knob.lr"] > 2e-2:
            one |= {"stop_reason": "collapse:mode", "state": "PRUNED"}
    found = collapses(read_columns(table(rows), PlantedSpace()))
    place = found[0].places[0]
    assert [one.kind for one in found] == ["mode"] and found[0].clear
    assert (
        place.knob == "lr"
        and place.low == pytest.approx(1e-1 / 1000**0.25)
        and place.high == pytest.approx(0.1)
    )
    assert place.collapsed == sum(one["knob.lr"] > 2e-2 for one in rows)
    assert place.share_low < place.share <= place.share_high
    assert "most where lr is 0.0178 to 0.1" in found[0].sentence


def test_a_trial_at_the_edge_of_two_parts_is_counted_in_the_one_whose_words_hold_it():
    rows = random_rows(40)
    edge = 1e-4 * 1000**0.25
    for one in rows:
        one["knob.lr"] = edge if one["trial"] < 10 else 1e-1 if one["trial"] < 20 else 1.2e-4
        one["stop_reason"] = "diverged" if one["trial"] < 20 else None
    (found,) = collapses(read_columns(table(rows), PlantedSpace()))
    told = {range_in_words(place): place.collapsed for place in found.places if place.knob == "lr"}
    assert told == {"0.000562 to under 0.00316": 10, "0.0178 to 0.1": 10}


def test_collapse_that_lives_nowhere_in_particular_is_said_so():
    rows = random_rows(60)
    for one in rows[::10]:
        one["stop_reason"] = "diverged"
    found = collapses(read_columns(table(rows), PlantedSpace()), {1: ["mode"]})
    assert {one.kind: one.collapsed for one in found} == {"diverged": 6, "mode": 1}
    assert found[0].sentence == "Divergence: 6 of 60 trials; no part of the space stands out clearly."


def test_collapse_that_a_trial_s_last_epoch_shows_is_counted():
    rows = [one | {"collapsed.mode": one["trial"] < 3} for one in random_rows(20)]
    found = analyse(table(rows), PlantedSpace()).collapses
    assert [(one.kind, one.numbers) for one in found] == [("mode", [0, 1, 2])]


@given(st.integers(0, 30), st.integers(1, 30))
@settings(deadline=None)
def test_wilson_s_interval_is_scipy_s(hits, n):
    from scipy.stats import binomtest

    hits = min(hits, n)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_without_trials_nothing_is_known_of_a_share():
    assert wilson(0, 0) == (0.0, 1.0)
