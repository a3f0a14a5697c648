"""The held-out test split: a search never touches it, a confirmation measures one model on it, once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from families import CASES, Case, bits, engine_of, ids, job, run

every_family = pytest.mark.parametrize("case", CASES, ids=ids)


@every_family
def test_a_trial_of_a_search_never_touches_the_test_split(case: Case):
    """It trains, is measured and ends where there is none."""
    engine = engine_of(case, 2, {0: job(case, 0, epochs=2), 1: job(case, 1, epochs=2)})
    other = engine_of(case, 2, {0: job(case, 0, epochs=2), 1: job(case, 1, epochs=2)})
    del other.splits["test"]
    for mine, theirs in zip(run(engine, 2).values(), run(other, 2).values(), strict=True):
        assert bits(mine) == bits(theirs)
        assert not [name for report in mine for name in report.row if name.startswith("test.")]


@every_family
def test_a_trial_that_wants_it_is_measured_on_the_test_split_once_when_it_ends(case: Case):
    """By its best epoch's model, and neither it nor its neighbour trains otherwise for that."""
    plain = {slot: job(case, slot, epochs=3) for slot in range(2)}
    tested = engine_of(case, 2, {0: replace(plain[0], test=True), 1: plain[1]}, dtype=torch.float64)
    reports = run(tested, 3)
    untested = run(engine_of(case, 2, plain, dtype=torch.float64), 3)
    for trial in (0, 1):
        rows = [
            {name: value for name, value in bit.items() if not name.startswith("test.")}
            for bit in bits(reports[trial])
        ]
        assert rows == bits(untested[trial])
    found = [{k: v for k, v in report.row.items() if k.startswith("test.")} for report in reports[0]]
    assert found[:-1] == [{}, {}]
    assert {f"test.{name}" for name in (*case.family.terms, *case.family.metrics)} <= found[-1].keys()
    assert not [name for report in reports[1] for name in report.row if name.startswith("test.")]
    member = tested.members[0]
    tested.stack.write_row(0, tested.stack.as_state(member.best_row))
    values, _, examined = tested.evaluate("test")
    scalars = case.family.measure({name: t[0] for name, t in examined.items()}, tested.data.facts).scalars
    again = {**dict(zip(case.family.terms, values[0].tolist(), strict=True)), **scalars}
    assert found[-1] == pytest.approx({f"test.{k}": v for k, v in again.items()}, rel=1e-9, nan_ok=True)
