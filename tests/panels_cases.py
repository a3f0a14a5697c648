"""The family panels in the laws of the engine."""

from case import Case

from trainables.panels import PANELS

_STATIC = {
    "embedding_dim": 8,
    "width": 16,
    "batch_size": 16,
    "reconstruction_target": "detached",
    "alignment_direction": "symmetric",
    "criteria_mode": "train",
}
_ABLATED = {
    **_STATIC,
    "embedding_dim": 12,
    "width": 24,
    "reconstruction_target": "attached",
    "alignment_direction": "image_to_text",
    "criteria_mode": "eval",
}
_PAGES = {"source": "synthetic", "size": 64, "image_side": 16, "text_buckets": 64}
_KNOBS = (
    {},
    {
        "contrastive.weight": 0.3,
        "contrastive.temperature": 0.05,
        "reconstruction.weight": 2.0,
        "reconstruction.schedule": "linear",
        "reconstruction.ramp": 0.5,
        "alignment.temperature": 0.5,
        "optim.weight_decay": 0.1,
    },
    {
        "contrastive.temperature": 0.5,
        "alignment.schedule": "delayed",
        "alignment.start": 0.4,
        "alignment.weight": 1.5,
        "reconstruction.dropout": 0.5,
        "optim.schedule": "cosine",
        "optim.clip": 0.1,
    },
    {
        "contrastive.weight": 0.0,
        "reconstruction.dropout": 0.0,
        "alignment.temperature": 0.02,
        "alignment.schedule": "linear",
        "optim.schedule": "warmup_cosine",
        "optim.lr": 1e-2,
    },
)

CASES: tuple[Case, ...] = (
    Case("panels", PANELS, _STATIC, _PAGES, _KNOBS),
    Case("panels-ablated", PANELS, _ABLATED, _PAGES, _KNOBS),
)
