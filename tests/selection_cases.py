"""The family selection in the laws of the engine: two sizes of games, symbols and mixtures."""

from case import Case

from trainables.selection import SELECTION

_GRIDS = {"source": "synthetic", "side": 10, "size": 64, "distractors.same_task": 0.5}
_KNOBS = (
    {"reconstruction.leak": 0.3, "reconstruction.gamma": 0.5, "optim.clip": 0.1},
    {
        "reconstruction.schedule": "adaptive",
        "reconstruction.weight": 3.0,
        "reconstruction.leak": 1.0,
        "class_weights.method": "sqrt_inverse",
        "gumbel.temperature": 0.5,
        "optim.lr": 1e-2,
    },
    {
        "reconstruction.schedule": "delayed",
        "reconstruction.start": 0.4,
        "reconstruction.gamma": 2.0,
        "class_weights.method": "inverse",
        "selector.temperature": 0.2,
        "optim.schedule": "cosine",
    },
    {
        "reconstruction.schedule": "linear",
        "reconstruction.start": 0.0,
        "reconstruction.ramp": 0.5,
        "class_weights.method": "effective",
        "gumbel.temperature": 2.0,
        "selector.temperature": 2.0,
        "optim.weight_decay": 0.1,
    },
)

CASES: tuple[Case, ...] = (
    Case(
        "selection",
        SELECTION,
        {"distractors": 3, "vocab": 5, "message_length": 3, "width": 12, "batch_size": 16},
        _GRIDS,
        _KNOBS,
    ),
    Case(
        "selection-relaxed",
        SELECTION,
        {
            "distractors": 7,
            "vocab": 4,
            "message_length": 2,
            "message": "relaxed",
            "width": 8,
            "batch_size": 16,
        },
        _GRIDS,
        _KNOBS,
    ),
)
