"""The tiny family, with a knob value at which it raises in the second epoch of training."""

from __future__ import annotations

from tiny_family import Tiny


class Raising(Tiny):
    name = "raising"

    def order(self, knobs, data, generator):
        if knobs["penalty.weight"] == 7.0:
            raise RuntimeError("this family cannot do 7")
        return super().order(knobs, data, generator)


RAISING = Raising()
