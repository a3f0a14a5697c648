"""Which knobs of a trial are in force, as trials.parquet shows them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from search.study import Asked
from search.tables import knobs_in_force
from trainables.tokens import TOKENS


@pytest.mark.parametrize(("latent", "shown"), [("vq", 0.5), ("linear", None)])
def test_a_knob_that_a_static_setting_puts_out_of_force_is_null(latent: str, shown: float | None):
    space = SimpleNamespace(family=TOKENS)
    asked = Asked(0, {}, {"latent": latent}, {"commitment.weight": 0.5}, 0, None)
    assert knobs_in_force(space, asked, asked.knobs) == {"commitment.weight": shown}
