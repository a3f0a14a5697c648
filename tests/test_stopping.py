"""The stop rules, each against histories of which anyone can say what should happen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.space import load_space
from search.stopping import (
    Group,
    Rule,
    StopRules,
    Verdict,
    collapsed,
    diverged,
    over_budget,
    plateaued,
    rule_settings,
    target_reached,
)
from trainables.collapse import persists

SCORE = "val.selection_accuracy"
SPACE = """family: tiny_family:TINY
budget: {trials: 20, epochs: 40}
knobs: {penalty.weight: {float: [0.1, 1.0]}}
"""


def history(scores, **columns):
    rows = [{"epoch": n, SCORE: score, "diverged": 0.0, "seconds": 1.0} for n, score in enumerate(scores, 1)]
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[name.replace("__", ".")] = value
    return rows


def stop_epoch(rows, rule):
    """The first epoch after which `rule` ends the trial, None when it never does."""
    return next((n for n in range(1, len(rows) + 1) if rule(rows[:n])), None)


def rules(folder: Path, stop: str) -> StopRules:
    file = folder / "space.yaml"
    file.write_text(SPACE + stop)
    return load_space(file).stop


# ---------------------------------------------------------------------- plateau


def plateau(rows, patience=3, min_delta=0.01, warmup=0, maximise=True):
    return plateaued(rows, SCORE, patience, min_delta, warmup, maximise)


def test_a_flat_line_is_a_plateau_after_patience_epochs_beyond_its_first():
    assert stop_epoch(history([0.5] * 10), plateau) == 4


def test_the_warmup_delays_a_plateau_but_its_values_count_as_the_best():
    rows = history([0.9] + [0.1] * 20)
    assert stop_epoch(rows, lambda r: plateau(r, warmup=6)) == 9


def test_progress_by_exactly_min_delta_is_none_and_by_more_is_some():
    steps = [0.0, 0.25, 0.5, 0.75, 1.0]  # exact in binary
    assert stop_epoch(history(steps), lambda r: plateau(r, patience=1, min_delta=0.25)) == 2
    assert stop_epoch(history(steps), lambda r: plateau(r, patience=1, min_delta=0.24)) is None


def test_slow_progress_counts_once_it_adds_up():
    rows = history([0.004 * n for n in range(30)])
    assert stop_epoch(rows, lambda r: plateau(r, patience=4)) is None
    assert stop_epoch(rows, lambda r: plateau(r, patience=2)) == 3


def test_a_falling_error_is_progress_when_smaller_is_better():
    rows = history([1.0 - 0.05 * n for n in range(12)])
    assert stop_epoch(rows, lambda r: plateau(r, maximise=False)) is None
    assert stop_epoch(rows, plateau) == 4


def test_nan_is_no_progress_and_does_not_hide_later_progress():
    assert stop_epoch(history([math.nan] * 9), plateau) == 3
    assert stop_epoch(history([math.nan, 0.1, 0.2, math.nan, 0.3, 0.4, 0.5]), plateau) is None


def test_a_plateau_tells_what_it_saw():
    verdict = plateau(history([0.1, 0.6, 0.5, 0.5, 0.5]))
    assert verdict == Verdict(
        "plateau", "plateau", {"best": 0.6, "best_epoch": 2, "waited": 3, "patience": 3}
    )


def test_no_history_ends_nothing():
    assert plateau([]) is None
    assert diverged([]) is None
    assert collapsed([], 0, 1, ("mode",)) is None
    assert target_reached([], SCORE, 0.0, True, 1) is None
    assert over_budget([], 1.0) is None


# ---------------------------------------------------------------------- collapse


@given(
    flags=st.lists(st.sampled_from([1.0, 0.0, math.nan]), max_size=12),
    warmup=st.integers(0, 5),
    patience=st.integers(1, 4),
)
def test_collapse_keeps_the_law_of_the_trainables(flags, warmup, patience):
    rows = history([0.5] * len(flags), collapsed__mode=flags)
    judged = [None if math.isnan(flag) else bool(flag) for flag in flags]
    expected = persists(judged, warmup=warmup, patience=patience)
    assert (collapsed(rows, warmup, patience, ("mode",)) is not None) == expected


def test_an_epoch_that_was_not_judged_breaks_the_run():
    rows = history([0.5] * 6, collapsed__mode=[1, 1, math.nan, 1, 1, 1])
    assert stop_epoch(rows, lambda r: collapsed(r, 0, 3, ("mode",))) == 6


def test_kinds_are_told_apart_and_only_the_asked_ones_judged():
    rows = history([0.5] * 3, collapsed__mode=[0, 0, 0], collapsed__posterior=[1, 1, 1])
    assert collapsed(rows, 0, 3, ("mode", "posterior")).reason == "collapse:posterior"
    assert collapsed(rows, 0, 3, ("mode",)) is None
    assert collapsed(rows, 0, 3, ("vq",)) is None  # a kind that was never reported


def test_runs_of_two_kinds_do_not_add_up():
    rows = history([0.5] * 4, collapsed__mode=[1, 1, 0, 0], collapsed__posterior=[0, 0, 1, 1])
    assert stop_epoch(rows, lambda r: collapsed(r, 0, 3, ("mode", "posterior"))) is None


# ---------------------------------------------------------------------- target, time, divergence


def test_a_target_of_zero_is_a_target():
    rows = history([0.3, 0.1, 0.0, 0.0])
    assert stop_epoch(rows, lambda r: target_reached(r, SCORE, 0.0, False, 1)) == 3
    assert stop_epoch(rows, lambda r: target_reached(r, SCORE, 0.0, True, 1)) == 1


def test_a_target_must_hold_for_its_patience():
    rows = history([0.9, 0.7, 0.9, 0.9, 0.9])
    assert stop_epoch(rows, lambda r: target_reached(r, SCORE, 0.8, True, 3)) == 5
    assert stop_epoch(history([math.nan] * 5), lambda r: target_reached(r, SCORE, 0.0, True, 1)) is None


def test_time_is_the_sum_over_the_epochs():
    rows = history([0.5] * 10)
    assert stop_epoch(rows, lambda r: over_budget(r, 4.0)) == 4
    assert over_budget(rows, 4.0).numbers == {"seconds": 10.0, "allowed": 4.0}


def test_divergence_is_the_last_epochs():
    rows = history([0.5] * 3)
    assert diverged(rows) is None
    rows[-1]["diverged"] = 1.0
    assert diverged(rows).reason == "diverged"


# ---------------------------------------------------------------------- sets of rules


def test_the_defaults_are_late_pruning_plateau_and_collapse(tmp_path):
    stop = rules(tmp_path, "")
    assert stop.prune == {"rule": "successive_halving", "min_epochs": 4, "reduction": 3}
    collapse, level = stop.rules
    assert collapse == Rule("collapse", {"warmup": 5, "patience": 3, "kinds": ("code",)})
    assert {key: level.settings[key] for key in ("patience", "min_delta", "warmup")} == {
        "patience": 6,
        "min_delta": 0.002,
        "warmup": 5,
    }
    assert stop == rules(tmp_path, "stop: {}\n")


@pytest.mark.parametrize("off", ["off", "'off'", "null", "~", "no", "false", ""])
def test_off_and_null_switch_a_rule_off(tmp_path, off):
    stop = rules(tmp_path, f"stop:\n  plateau: {off}\n  collapse: {off}\n  prune: {off}\n")
    assert stop == StopRules(None, ())
    assert stop.verdict(history([0.5] * 40)) is None


@pytest.mark.parametrize("prune", ["{rule: none}", "off"])
def test_pruning_can_be_none(tmp_path, prune):
    assert rules(tmp_path, f"stop: {{prune: {prune}}}\n").prune is None


def test_divergence_is_judged_first_and_always(tmp_path):
    rows = history([0.5] * 20, collapsed__code=[1] * 20)
    rows[-1]["diverged"] = 1.0
    assert rules(tmp_path, "").verdict(rows).reason == "diverged"
    off = rules(tmp_path, "stop: {plateau: off, collapse: off}\n")
    assert off.verdict(rows).reason == "diverged"


def test_top_level_rules_are_joined_by_any(tmp_path):
    stop = rules(tmp_path, "stop: {target: {target: 0.9}, time: {seconds: 3}, plateau: off, collapse: off}\n")
    assert stop.verdict(history([0.5, 0.5])) is None
    assert stop.verdict(history([0.5, 0.95])).reason == "target_reached"
    assert stop.verdict(history([0.5, 0.5, 0.5])).reason == "over_budget"


def test_an_all_group_fires_only_when_every_member_does(tmp_path):
    group = "{plateau: {patience: 2, warmup: 0}}, {collapse: {patience: 2, warmup: 0}}"
    stop = rules(tmp_path, f"stop: {{all: [{group}]}}\n")
    level = history([0.5] * 8, collapsed__code=[0] * 8)
    assert stop.verdict(level) is None  # in a group, plateau no longer stands alone
    both = history([0.5] * 8, collapsed__code=[0] * 6 + [1] * 2)
    assert stop_epoch(both, stop.verdict) == 8
    verdict = stop.verdict(both)
    assert verdict.reason == "all(plateau+collapse:code)"
    assert verdict.numbers["collapse.code"] == 2
    assert verdict.numbers["plateau.selection_accuracy.best"] == 0.5


def test_groups_nest(tmp_path):
    inner = "{any: [{target: {target: 0.9}}, {time: {seconds: 5}}]}"
    stop = rules(
        tmp_path, f"stop: {{collapse: off, all: [{{plateau: {{patience: 2, warmup: 0}}}}, {inner}]}}\n"
    )
    assert stop_epoch(history([0.5] * 8), stop.verdict) == 5
    assert stop.verdict(history([0.95] * 3)).reason == "all(plateau+target_reached)"
    assert stop_epoch(history([0.1 * n for n in range(9)]), stop.verdict) is None


def test_an_empty_group_never_ends_a_trial():
    assert Group("any", ()).verdict(history([0.5])) is None


def test_with_several_objectives_all_of_them_must_level_off(tmp_path):
    text = (
        "objective: [selection_accuracy, error]\nstop: {plateau: {patience: 3, warmup: 0}, collapse: off}\n"
    )
    stop = rules(tmp_path, text)
    falling = history([0.5] * 10, val__error=[1.0 - 0.05 * n for n in range(10)])
    assert stop.verdict(falling) is None
    assert stop_epoch(history([0.5] * 10, val__error=[1.0] * 10), stop.verdict) == 4


def test_a_trial_judged_epoch_by_epoch_ends_as_when_judged_after_a_resume(tmp_path):
    """Rules keep no state: the verdict on a history is the same in a new process that has read it back."""
    stop = rules(tmp_path, "")
    rows = history([0.1, 0.2, 0.3, *[0.3] * 20], collapsed__code=[0] * 23)
    ends = stop_epoch(rows, stop.verdict)
    assert ends == 11  # warm-up 5, patience 6
    assert stop.verdict([dict(row) for row in rows[:ends]]) == rules(tmp_path, "").verdict(rows[:ends])


def test_every_default_lies_in_its_range():
    for name, settings in rule_settings().items():
        for key, setting in settings.items():
            if hasattr(setting, "options"):
                assert setting.default in setting.options
            elif not math.isnan(setting.default):
                assert setting.low <= setting.default <= setting.high, (name, key)
