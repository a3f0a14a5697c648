"""Randomness that depends on a trial's seed and a purpose alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables import keyed
from trainables.family import Noise

KEYS = st.tuples(st.integers(0, 2**63), st.sampled_from(["order", "latent", "turn"]), st.integers(0, 10_000))


@given(KEYS, KEYS)
def test_keys_are_equal_exactly_when_all_that_they_are_made_of_is(one: tuple, other: tuple):
    assert (keyed.key(*one) == keyed.key(*other)) == (one == other)
    assert 0 <= keyed.key(*one) < 2**63


def test_a_key_is_the_same_on_every_machine_and_in_every_version():
    """Written down once: a changed key would change every trial that is resumed."""
    assert keyed.key(0, "order", 0) == 2_559_165_940_834_366_669
    assert keyed.key(7, "initialisation") == 5_011_868_105_960_329_192


@pytest.mark.parametrize("noise", [Noise("normal", (3,)), Noise("uniform", (2, 2)), Noise(8, ())], ids=repr)
def test_equal_keys_give_equal_draws_and_others_differ(noise: Noise):
    drawn = keyed.draw(noise, 50, keyed.generator(3, "latent", 2))
    assert drawn.shape == (50, *noise.shape)
    assert torch.equal(drawn, keyed.draw(noise, 50, keyed.generator(3, "latent", 2)))
    for other in ((4, "latent", 2), (3, "turn", 2), (3, "latent", 3)):
        assert not torch.equal(drawn, keyed.draw(noise, 50, keyed.generator(*other)))


def test_noise_has_the_kind_that_was_asked_for():
    """20,000 draws; the means are within 5 standard errors: false failures below 1e-5."""
    source = keyed.generator(0, "law")
    normal = keyed.draw(Noise("normal", (2,)), 10_000, source)
    uniform = keyed.draw(Noise("uniform", (2,)), 10_000, source)
    whole = keyed.draw(Noise(5, (2,)), 10_000, source)
    assert abs(normal.mean()) < 5 / 20_000**0.5 and abs(normal.std() - 1) < 5 / 40_000**0.5
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 5 * 0.2887 / 20_000**0.5
    assert whole.dtype == torch.int64 and set(whole.unique().tolist()) == {0, 1, 2, 3, 4}


def test_drawing_by_key_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    keyed.draw(Noise("normal", (2,)), 10, keyed.generator(1, "latent"))
    assert torch.equal(torch.random.get_rng_state(), before)
