"""The family tokens in the laws of the engine."""

from case import Case

from trainables.tokens import TOKENS

_SETTINGS = {"size": 64}
_STATIC = {
    "latent": "vq",
    "encoder": "mlp",
    "latent_dim": 3,
    "codebook_size": 8,
    "width": 8,
    "batch_size": 16,
}
_KNOBS = (
    {"globals.weight": 3.0, "commitment.weight": 1.0, "optim.lr": 3e-3},
    {
        "tokens.kind": "huber",
        "tokens.delta": 0.3,
        "types.gamma": 2.0,
        "class_weights.method": "sqrt_inverse",
        "globals.schedule": "linear",
        "globals.ramp": 0.5,
        "optim.weight_decay": 0.1,
    },
    {
        "globals.weight": 0.0,
        "types.gamma": 0.5,
        "types.weight": 3.0,
        "class_weights.method": "inverse",
        "class_weights.cap": 20.0,
        "optim.schedule": "cosine",
        "optim.clip": 0.1,
    },
    {
        "class_weights.method": "effective",
        "globals.schedule": "delayed",
        "globals.start": 0.4,
        "tokens.weight": 2.0,
        "optim.schedule": "warmup_cosine",
        "optim.lr": 1e-2,
    },
)

CASES = (
    Case("tokens", TOKENS, _STATIC, _SETTINGS, _KNOBS),
    Case("tokens-none", TOKENS, {**_STATIC, "latent": "none"}, _SETTINGS, _KNOBS),
    Case("tokens-linear-gnn", TOKENS, {**_STATIC, "latent": "linear", "encoder": "gnn"}, _SETTINGS, _KNOBS),
    Case("tokens-gnn", TOKENS, {**_STATIC, "encoder": "gnn"}, _SETTINGS, _KNOBS),
)
