"""What a confirmation concludes: hand-worked cases, what goes wrong with seeds, and what the words say."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.verdict import conclude, is_clear
from search.verdict_lines import figures

SEEDS = (101, 102, 103, 104, 105)
NOISE = dict(zip(SEEDS, (0.004, -0.006, 0.001, 0.003, -0.002), strict=True))


def space(direction: str = "maximize", low: float = 0.0, high: float = 1.0, **confirm: int):
    """As much of a space as a verdict reads."""
    metric = SimpleNamespace(low=low, high=high)
    return SimpleNamespace(
        objectives=("score",),
        directions=(direction,),
        confirm=confirm,
        family=SimpleNamespace(metrics={"score": metric}),
    )


SEARCHED = [
    {"trial": 0, "phase": "search", "objective": 0.18, "preset": "option_a"},
    {"trial": 1, "phase": "search", "objective": 0.20, "preset": "option_b"},
    {"trial": 12, "phase": "search", "objective": 0.26, "preset": None},
    {"trial": 17, "phase": "search", "objective": 0.27, "preset": None},
]
PRESETS = {0: "option_a", 1: "option_b"}


def confirmed(means: dict[int, float], seeds=SEEDS, unit: float = 1.0, **changes) -> list[dict]:
    """Confirm rows of sources with these test means; validation is 0.005 higher. `changes`: by s<seed>."""
    rows = []
    for source, mean in means.items():
        for seed in seeds:
            test = mean + unit * NOISE[seed] * (1 + source % 3)
            row = {"trial": len(rows), "phase": "confirm", "source": source, "preset": PRESETS.get(source)}
            row |= {"seed": seed, "state": "COMPLETE", "stop_reason": "completed"}
            row |= {"objective": test + 0.005, "test.score": test, "test.loss": 1 - test}
            rows.append(row | changes.get(f"s{source}_{seed}", {}))
    return rows


def by_source(result: dict) -> dict[int, dict]:
    return {plain["source"]: plain for plain in result["configurations"]}


def test_a_gain_far_above_the_noise_is_a_win_and_said_so():
    result = conclude(SEARCHED, confirmed({17: 0.261, 1: 0.2}), space())
    assert result["verdict"] == "better" and result["clear"] and result["complete"]
    assert (result["recommended"], result["reference"]) == (17, 1)
    assert result["sentence"] == "trial 17 beats option_b by 0.0610, 95 % interval 0.0545 to 0.0655, 5 seeds"


def test_no_gain_keeps_the_preset():
    result = conclude(SEARCHED, confirmed({17: 0.201, 1: 0.2}), space())
    assert result["verdict"] == "unclear" and not result["clear"]
    assert result["recommended"] == 1
    assert result["sentence"].startswith("no reliable difference: keep option_b (trial 17: +0.001")


def test_a_configuration_that_is_worse_keeps_the_preset():
    result = conclude(SEARCHED, confirmed({17: 0.15, 1: 0.2}), space())
    assert result["verdict"] == "worse" and result["clear"]
    assert result["recommended"] == 1
    assert result["sentence"].startswith("trial 17 is worse than option_b by 0.050")
    assert result["sentence"].endswith("5 seeds: keep option_b")


def test_the_reference_is_the_preset_that_did_best_in_the_search():
    result = conclude(SEARCHED, confirmed({17: 0.25, 0: 0.3, 1: 0.2}), space())
    assert result["reference"] == 1
    assert result["recommended"] == 0  # another preset may win: it has fresh scores too
    assert "option_a beats option_b" in result["sentence"]


def test_without_a_preset_the_others_are_compared_with_the_search_s_best():
    result = conclude(SEARCHED, confirmed({17: 0.2, 12: 0.26}), space())
    assert (result["reference"], result["recommended"]) == (17, 12)
    assert result["sentence"].startswith("trial 12 beats trial 17 by 0.060")


def test_a_configuration_alone_is_described_and_recommended():
    result = conclude(SEARCHED, confirmed({17: 0.25}), space())
    assert result["recommended"] == 17 and result["verdict"] == "unknown"
    assert result["sentence"].endswith("5 seeds; there is nothing to compare it with")


def test_nothing_confirmed_recommends_nothing():
    result = conclude(SEARCHED, [], space())
    assert result["recommended"] is None and not result["complete"]
    assert result["sentence"] == "nothing is confirmed"


def test_one_seed_gives_no_verdict():
    result = conclude(SEARCHED, confirmed({17: 0.3, 1: 0.2}, seeds=SEEDS[:1]), space())
    assert result["recommended"] == 1
    assert result["sentence"] == "no verdict from 1 seed: keep option_b"
    assert any("One seed" in note for note in result["notes"])


def test_a_win_that_collapses_more_often_than_the_preset_is_not_recommended():
    collapse = {"state": "PRUNED", "stop_reason": "collapse:mode"}
    rows = confirmed({17: 0.3, 1: 0.2}, s17_103=collapse)
    result = conclude(SEARCHED, rows, space())
    assert result["recommended"] == 1 and result["verdict"] == "broken"
    assert result["sentence"].endswith("but collapsed (mode) on seed 103: keep option_b")
    assert "trial 17 collapsed (mode) on seed 103." in result["notes"]
    both = conclude(SEARCHED, confirmed({17: 0.3, 1: 0.2}, s17_103=collapse, s1_104=collapse), space())
    assert both["recommended"] == 17


def test_of_two_wins_the_sound_one_is_recommended_though_it_gains_less():
    rows = confirmed({17: 0.3, 12: 0.25, 1: 0.2}, s17_103={"state": "PRUNED", "stop_reason": "collapse:mode"})
    result = conclude(SEARCHED, rows, space())
    assert result["recommended"] == 12 and result["verdict"] == "better"
    assert by_source(result)[17]["verdict"] == "better"


def test_a_diverged_seed_is_named_and_its_pair_left_out():
    diverged = {"state": "FAIL", "stop_reason": "diverged", "test.score": None, "objective": None}
    result = conclude(SEARCHED, confirmed({17: 0.3, 1: 0.2}, s17_105=diverged), space())
    plain = by_source(result)[17]
    assert plain["test"]["n"] == plain["difference"]["n"] == 4
    assert plain["missing"] == [105]
    assert plain["broken"] == [{"seed": 105, "trial": 4, "what": "failed", "kind": "diverged"}]
    assert result["recommended"] == 1
    assert "trial 17 failed (diverged) on seed 105." in result["notes"]


def test_seeds_that_still_run_are_not_counted_against_a_configuration():
    running = {"state": "RUNNING", "stop_reason": None, "test.score": None, "objective": None}
    result = conclude(SEARCHED, confirmed({17: 0.3, 1: 0.2}, s17_105=running), space())
    assert not result["complete"]
    assert by_source(result)[17]["broken"] == [] and by_source(result)[17]["missing"] == []
    assert result["recommended"] == 17


def test_a_preset_without_any_score_is_no_reference():
    failed = {
        f"s1_{seed}": {"state": "FAIL", "stop_reason": "diverged", "test.score": None} for seed in SEEDS
    }
    result = conclude(SEARCHED, confirmed({17: 0.25, 1: 0.2}, **failed), space())
    assert result["recommended"] == 17
    assert "option_b failed (diverged) on seed 101, 102, 103, 104 and 105." in result["notes"]


def test_optimism_is_seed_luck_and_the_difference_of_the_splits():
    result = conclude(SEARCHED, confirmed({17: 0.25, 1: 0.2}), space())
    optimism = result["optimism"]
    assert optimism["source"] == 17
    assert optimism["split_difference"] == pytest.approx(0.005)
    assert optimism["total"] == pytest.approx(0.27 - 0.25)
    assert optimism["total"] == pytest.approx(optimism["seed_luck"] + optimism["split_difference"])
    assert optimism["seed_luck_low"] < optimism["seed_luck"] < optimism["seed_luck_high"]
    assert result["optimism_sentence"] == (
        "the search gave trial 17 0.2700, 0.0200 better than its mean of 5 seeds on the test split, 0.2500: "
        "0.0150 by the luck of its seed, 0.0050 because the splits differ"
    )


def test_a_search_score_that_held_is_said_to_have():
    rows = [row | {"test.score": 0.27, "objective": 0.27} for row in confirmed({17: 0.27, 1: 0.2})]
    result = conclude(SEARCHED, rows, space())
    expected = "the search gave trial 17 0.270, and its mean of 5 seeds on the test split is the same"
    assert result["optimism_sentence"] == expected


@pytest.mark.parametrize("noise", [1e-8, -1e-10])
def test_what_rounding_alone_makes_differ_is_told_as_the_same(noise):
    rows = [row | {"test.score": 0.27 + noise, "objective": 0.27} for row in confirmed({17: 0.27, 1: 0.2})]
    assert conclude(SEARCHED, rows, space())["optimism_sentence"].endswith("on the test split is the same")
    rows = [row | {"test.score": 0.25 + noise, "objective": 0.25} for row in confirmed({17: 0.25, 1: 0.2})]
    said = conclude(SEARCHED, rows, space())["optimism_sentence"]
    assert said.endswith("0.2500: 0.0200 by the luck of its seed, 0.0000 because the splits differ")


def test_every_metric_of_the_test_split_is_given():
    result = conclude(SEARCHED, confirmed({17: 0.25, 1: 0.2}), space())
    assert by_source(result)[1]["metrics"]["loss"]["mean"] == pytest.approx(0.8)


@given(st.floats(1e-6, 1e6), st.sampled_from([0.15, 0.2, 0.23, 0.3]))
@settings(deadline=None, max_examples=25)
def test_minimised_and_in_any_unit_the_verdict_is_the_same(unit, mean):
    plain = conclude(SEARCHED, confirmed({17: mean, 1: 0.2}), space())
    searched = [row | {"objective": -unit * row["objective"]} for row in SEARCHED]
    rows = [
        row | {key: -unit * row[key] for key in ("objective", "test.score")}
        for row in confirmed({17: mean, 1: 0.2})
    ]
    turned = conclude(searched, rows, space("minimize", low=-np.inf, high=np.inf))
    assert [turned[key] for key in ("verdict", "recommended", "reference")] == [
        plain[key] for key in ("verdict", "recommended", "reference")
    ]
    ours, other = by_source(turned)[17]["difference"], by_source(plain)[17]["difference"]
    for key in ("mean", "low", "high"):
        assert ours[key] == pytest.approx(unit * other[key], rel=1e-6, abs=1e-9 * unit)
    for key in ("total", "seed_luck", "split_difference"):
        assert turned["optimism"][key] == pytest.approx(unit * plain["optimism"][key], rel=1e-6)


@given(
    st.lists(st.lists(st.none() | st.floats(-1e9, 1e9), min_size=0, max_size=4), max_size=4),
    st.sampled_from(["maximize", "minimize"]),
)
@settings(deadline=None, max_examples=40)
def test_whatever_the_scores_a_verdict_is_reached_that_json_holds(scores, direction):
    rows = [
        {
            "trial": 10 * index + seed,
            "source": (1, 17, 12, 0)[index],
            "preset": PRESETS.get((1, 17, 12, 0)[index]),
            "seed": seed,
            "state": "FAIL" if value is None else "COMPLETE",
            "stop_reason": "raised" if value is None else "completed",
            "objective": value,
            "test.score": value,
        }
        for index, values in enumerate(scores)
        for seed, value in enumerate(values)
    ]
    result = conclude(SEARCHED, rows, space(direction, -np.inf, np.inf))
    json.dumps(result, allow_nan=False)
    assert result["sentence"] and all(plain["sentence"] for plain in result["configurations"])
    assert (result["recommended"] is None) == (
        not any(value is not None for values in scores for value in values)
    )


def test_equal_scores_everywhere_are_no_difference():
    rows = [row | {"test.score": 0.5} for row in confirmed({17: 0.5, 1: 0.5})]
    result = conclude(SEARCHED, rows, space())
    assert result["recommended"] == 1 and result["verdict"] == "unclear"
    assert (
        result["sentence"]
        == "no reliable difference: keep option_b (trial 17: +0, 95 % interval 0 to 0, 5 seeds)"
    )


def test_several_looks_demand_more_of_each():
    rows = confirmed({17: 0.261, 1: 0.2})
    once, often = conclude(SEARCHED, rows, space()), conclude(SEARCHED, rows, space(), looks=range(3, 11))
    one, other = (by_source(result)[17]["difference"] for result in (once, often))
    assert other["low"] < one["low"] and other["miss"] < one["miss"]
    adaptive = conclude(SEARCHED, rows, space(seeds=3, max_seeds=10))
    assert by_source(adaptive)[17]["difference"] == other


def test_more_comparisons_widen_each_interval():
    few = conclude(SEARCHED, confirmed({17: 0.25, 1: 0.2}), space())
    many = conclude(SEARCHED, confirmed({17: 0.25, 12: 0.2, 0: 0.19, 1: 0.2}), space())
    one, other = (by_source(result)[17]["difference"] for result in (few, many))
    assert other["high"] - other["low"] > one["high"] - one["low"]
    assert by_source(few)[17]["test"] == by_source(many)[17]["test"]


def test_an_adaptive_confirmation_stops_when_the_verdict_stands():
    looks = range(3, 8)
    assert not is_clear(SEARCHED, confirmed({17: 0.26, 1: 0.2}, seeds=SEEDS[:2]), space(), looks)
    assert is_clear(SEARCHED, confirmed({17: 0.9, 1: 0.2}), space(), looks)
    assert is_clear(SEARCHED, confirmed({17: 0.01, 1: 0.2}), space(), looks)
    assert not is_clear(SEARCHED, confirmed({17: 0.201, 1: 0.2}), space(), looks)


@pytest.mark.parametrize(
    ("values", "spread", "words"),
    [
        ((0.0612, 0.0431, 0.0799), 0.0184, ["0.061", "0.043", "0.080"]),
        ((12345.6, 12000.2), 250.0, ["12346", "12000"]),
        ((0.0123, 0.0002, 0.02), 0.01, ["0.0123", "0.0002", "0.0200"]),  # 0.000 would look like no difference
        ((1.2e-9,), 1e-10, ["1.2e-09"]),
        ((0.0, 0.0), 0.0, ["0", "0"]),
        ((0.123456,), None, ["0.123"]),
    ],
)
def test_figures_have_the_decimals_that_their_spread_gives_sense_to(values, spread, words):
    assert figures(*values, spread=spread) == words
