"""The study: what is asked, in which order, and what a torn journal leaves."""

from __future__ import annotations

import random

import optuna
import pytest
from toy_run import toy_space

from search.errors import DamagedRun
from search.study import Study, repair_journal


def study(tmp_path, **changes) -> Study:
    return Study(tmp_path / "study.journal", toy_space(tmp_path, **changes))


def test_presets_come_first_with_the_family_defaults_for_what_they_leave_out(tmp_path):
    asked = study(tmp_path).ask()
    assert (asked.number, asked.preset) == (0, "habit")
    assert asked.params == {"penalty.weight": 0.1, "penalty.schedule": "constant"}
    assert asked.knobs["optim.lr"] == 1e-2


def test_a_knob_is_drawn_only_where_its_condition_holds(tmp_path):
    opened = study(tmp_path, budget={"trials": 40, "epochs": 4})
    drawn = [opened.ask().params for _ in range(40)]
    assert {"penalty.start" in params for params in drawn} == {True, False}
    for params in drawn:
        assert ("penalty.start" in params) == (params["penalty.schedule"] == "delayed")


def test_the_budget_of_trials_ends_the_asking(tmp_path):
    opened = study(tmp_path, budget={"trials": 3, "epochs": 4})
    assert [opened.ask().number for _ in range(3)] == [0, 1, 2]
    assert opened.ask() is None


def test_a_grid_runs_each_cell_once_also_when_it_is_opened_again(tmp_path):
    knobs = {
        "penalty.weight": {"choice": [0.1, 0.2]},
        "penalty.schedule": {"choice": ["constant", "delayed"]},
        "penalty.start": {"choice": [0.1, 0.3], "when": {"penalty.schedule": "delayed"}},
    }
    changes = {"knobs": knobs, "search": {"sampler": "grid"}, "start_from": []}
    first = study(tmp_path, **changes)
    seen = [first.ask().params for _ in range(4)]
    again = study(tmp_path, **changes)
    while (asked := again.ask()) is not None:
        seen.append(asked.params)
    assert len(seen) == 6
    assert len({tuple(sorted(params.items())) for params in seen}) == 6


def test_a_resumed_study_does_not_draw_its_first_configurations_again(tmp_path):
    changes = {"start_from": [], "budget": {"trials": 9, "epochs": 4}}
    first = study(tmp_path, **changes)
    before = [first.ask().params["penalty.weight"] for _ in range(3)]
    again = study(tmp_path, **changes)
    after = [again.ask().params["penalty.weight"] for _ in range(3)]
    assert not set(before) & set(after)


def test_a_trial_has_its_reason_before_it_has_its_state(tmp_path):
    opened = study(tmp_path)
    opened.ask()
    opened.report(0, 1, 0.25)
    opened.tell(0, "PRUNED", None, "successive_halving", epochs=1)
    (trial,) = opened.trials(optuna.trial.TrialState.PRUNED)
    assert trial.user_attrs["stop_reason"] == "successive_halving"
    assert trial.value == 0.25  # Optuna's value of a pruned trial is the last that was reported


def test_presets_are_never_pruned(tmp_path):
    prune = {"prune": {"rule": "successive_halving", "min_epochs": 1, "reduction": 2}, "plateau": "off"}
    opened = study(tmp_path, stop=prune, budget={"trials": 8, "epochs": 4})
    pruned = {}
    for value in (0.9, 0.1, 0.8, 0.2, 0.3, 0.1):
        asked = opened.ask()
        opened.report(asked.number, 1, value)
        pruned[asked.number] = opened.should_prune(asked.number)
    assert not pruned[0] and not pruned[1]
    assert any(pruned.values())


@pytest.mark.parametrize("seed", range(12))
def test_a_journal_cut_anywhere_in_its_last_record_loses_that_record_alone(tmp_path, seed):
    opened = study(tmp_path)
    for _ in range(3):
        opened.ask()
    path = tmp_path / "study.journal"
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    torn = whole[: random.Random(seed).randint(last + 1, len(whole) - 1)]
    path.write_bytes(torn + b"\0" * (seed % 3) * 50)
    assert repair_journal(path) > 0
    assert path.read_bytes() == whole[:last]
    assert list(tmp_path.glob("study.journal.torn-*"))
    again = study(tmp_path)
    again.ask()
    assert study(tmp_path).trials()  # and what was appended after the repair can be read


def test_a_journal_with_a_damaged_record_in_the_middle_is_refused(tmp_path):
    opened = study(tmp_path)
    opened.ask()
    path = tmp_path / "study.journal"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1][:5]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(DamagedRun, match=r"study\.journal:2"):
        repair_journal(path)


def test_a_whole_journal_is_left_as_it_is(tmp_path):
    study(tmp_path).ask()
    path = tmp_path / "study.journal"
    before = path.read_bytes()
    assert repair_journal(path) == 0
    assert path.read_bytes() == before
