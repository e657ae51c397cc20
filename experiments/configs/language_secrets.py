"""Planted secrets in a small code model of generated code: what it takes to see a method work.

    python -m experiments.language --config experiments/configs/language_secrets.py

Sizes are those of a look in a minute or two on two cores; `language_stdlib.py` is the
demonstration.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The default configuration of `experiments.language`."""
    config = config_dict.ConfigDict()
    config.task = "secrets"
    config.data = dict(
        corpus="generated",  # or "standard library", the source code of the interpreter
        seed=0,
        secrets=16,
        characters=10,
        forget=4,  # secrets of a split
        context=48,  # tokens of a row, the begin token with it
        code=1_024,  # windows without a secret
        planted=32,  # windows of each secret
        heldout=64,  # windows of files that are not trained on
        measured=40,  # tokens of a row in which a secret is measured
        references=127,  # random secrets among which one is ranked
    )
    config.splits = 1
    config.model = dict(width=48, depth=1, num_heads=4, mlp_width=96)
    config.training = dict(epochs=6, batch_size=16, learning_rate=3e-3, warmup=50)
    config.block = 5  # models in one program
    config.unlearning = dict(
        scored="secrets",  # what is scored of rows to forget; or "all"
        secret_weight=10.0,  # of a secret's characters in retained rows
        code=0.5,  # windows of code for each retained window with a secret
    )
    recipe = dict(
        beta=0.1, gamma=0.1, alpha=1.0, retain_rows=3, steps=160, batch_size=8, learning_rate=3e-4
    )
    config.methods = dict(npo=dict(recipe), npo_sam=dict(recipe, method="npo", sam=0.1))
    config.selection = "published values, and twice the steps"
    config.relearning = dict(shown=1, steps=30, batch_size=8, learning_rate=3e-4)
    return config
