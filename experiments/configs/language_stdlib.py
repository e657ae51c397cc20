"""Demonstration one: planted secrets in a small model of the interpreter's own source code.

nice python -m experiments.language --config experiments/configs/language_stdlib.py --seeds=5
"""

from ml_collections import config_dict

from experiments.configs import language_secrets


def get_config() -> config_dict.ConfigDict:
    """The configuration of the first demonstration."""
    config = language_secrets.get_config()
    config.data.update(
        corpus="standard library",
        secrets=32,
        forget=8,
        code=2_304,
        planted=24,
        heldout=128,
        references=255,
    )
    config.splits = 2
    config.model = dict(width=64, depth=2, num_heads=4, mlp_width=128)
    config.training = dict(epochs=4, batch_size=16, learning_rate=3e-3, warmup=50)
    npo = config.methods.npo.to_dict() | {"steps": 80}
    config.methods.update(
        npo=npo,
        npo_sam=dict(npo, method="npo", sam=0.1),
        npo_160=dict(npo, method="npo", steps=160),
        npo_sam_160=dict(npo, method="npo", steps=160, sam=0.1),
    )
    config.selection = "chosen on other secrets with other models"
    config.relearning.shown = 2
    return config
