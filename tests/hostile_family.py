"""A family whose names are attacks on whoever shows them."""

from __future__ import annotations

from tiny_family import Tiny

from trainables.family import Choice

KNOB = '</script><img src=x onerror="window.harm=3">{{ 7 * 7 }}$\\frac{'


class Hostile(Tiny):
    name = "hostile"
    summary = KNOB
    knobs = {**Tiny.knobs, KNOB: Choice("a", ("a", KNOB), KNOB)}


HOSTILE = Hostile()
