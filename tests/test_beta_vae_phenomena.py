"""The trap that beta_vae exists for: option A paints everything background, option B does not."""

from __future__ import annotations

import pytest

from trainables.beta_vae import BETA_VAE
from trainables.engine import Engine
from trainables.member import Job
from trainables.slots import default_knobs

pytestmark = pytest.mark.slow

EPOCHS = 6
OPTIONS = {"a": "none", "b": "sqrt_inverse"}


@pytest.fixture(scope="module")
def rows():
    """The rows of both options on ARC's grids, by option: the first six epochs of a budget of 20."""
    settings = {name: setting.default for name, setting in BETA_VAE.data_settings.items()}
    data = BETA_VAE.load({"source": "arc", "path": None, **settings})
    static = {name: setting.default for name, setting in BETA_VAE.statics.items()}
    engine = Engine(BETA_VAE, data, static, 2)
    for slot, method in enumerate(OPTIONS.values()):
        changes = {"reconstruction.gamma": 2.0, "class_weights.method": method, "kl.weight": 0.03}
        engine.admit(Job(slot, seed=0, epochs=20, knobs={**default_knobs(BETA_VAE), **changes}), slot)
    found = [engine.run_epoch() for _ in range(EPOCHS)]
    return {option: [reports[slot].row for reports in found] for slot, option in enumerate(OPTIONS)}


def test_option_a_collapses_to_background_and_still_scores_high_pixel_accuracy(rows):
    last = rows["a"][-1]
    assert [row["collapsed.mode"] for row in rows["a"][-3:]] == [1.0, 1.0, 1.0]
    assert last["val.pixel_accuracy"] > 0.92 and last["val.foreground_accuracy"] < 0.05


def test_option_b_does_not_collapse_and_scores_higher_by_intersection_over_union_alone(rows):
    last, other = rows["b"][-1], rows["a"][-1]
    assert last["collapsed.mode"] == 0.0 and last["collapsed.posterior"] == 0.0
    assert last["val.foreground_accuracy"] > 0.3
    assert last["val.selection_accuracy"] > other["val.selection_accuracy"] + 0.05
    assert last["val.pixel_accuracy"] < other["val.pixel_accuracy"], (
        "by pixel accuracy the collapsed one wins"
    )
