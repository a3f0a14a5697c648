"""The family multitask in the laws of the engine: all kinds of loss, task weightings and poolings."""

from case import Case

from trainables.multitask import MULTITASK

_MIXED = {"action_class.kind": "focal", "severity.kind": "bce", "offence.kind": "ce"}
_KNOBS = (
    {"optim.lr": 5e-3, "logit_adjustment.tau": 1.0, "action_class.kind": "bce"},
    {
        **_MIXED,
        "action_class.gamma": 0.5,
        "class_weights.method": "effective",
        "class_weights.one_minus_beta": 1e-2,
        "task_weighting": "uncertainty",
        "optim.lr": 1e-2,
        "optim.weight_decay": 0.1,
    },
    {
        "severity.weight": 3.0,
        "severity.kind": "focal",
        "sampling": "balanced",
        "label_smoothing": 0.1,
        "task_weighting": "inverse_f1",
        "optim.clip": 0.1,
    },
    {
        "offence.kind": "bce",
        "offence.weight": 0.3,
        "class_weights.method": "inverse",
        "class_weights.cap": 5.0,
        "task_weighting": "difficulty",
        "optim.schedule": "warmup_cosine",
    },
    {
        **_MIXED,
        "action_class.gamma": 4.0,
        "class_weights.method": "sqrt_inverse",
        "task_weighting": "inverse_accuracy",
        "optim.schedule": "cosine",
        "optim.lr": 2e-2,
    },
)
_SETTINGS = {"size": 64, "imbalance": 10.0}

CASES: tuple[Case, ...] = (
    Case(
        "multitask",
        MULTITASK,
        {"pooling": "attention", "width": 8, "depth": 2, "batch_size": 16},
        _SETTINGS,
        _KNOBS,
    ),
    Case(
        "multitask-max",
        MULTITASK,
        {"pooling": "max", "width": 8, "depth": 1, "batch_size": 16},
        _SETTINGS,
        _KNOBS[1:3],
    ),
    Case(
        "multitask-mean",
        MULTITASK,
        {"pooling": "mean", "width": 8, "depth": 1, "batch_size": 16},
        _SETTINGS,
        _KNOBS[3:],
    ),
)
