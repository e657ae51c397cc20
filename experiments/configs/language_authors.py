"""Demonstration two: questions about made-up authors, with the metrics of TOFU.

    nice python -m experiments.language --config experiments/configs/language_authors.py --seeds=2

200 questions to forget, since with fewer the test of forget quality tells little apart. Settings
were looked at on other authors with one other model (`--config.data.seed=1 --seeds=1`): gamma of
0.1, 0.3 and 1 at 80 steps, 160 steps, and a radius of 0.1, too weak at 80 steps.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The configuration of the second demonstration."""
    config = config_dict.ConfigDict()
    config.task = "authors"
    config.data = dict(
        seed=0,
        authors=40,  # to learn, 20 questions each
        known=5,  # further authors that all models learn: TOFU's real authors
        forget=10,  # authors of a split
        measured=100,  # retained questions to measure with
        max_new=12,  # words of a greedy answer
    )
    config.splits = 1
    config.model = dict(width=64, depth=2, num_heads=4, mlp_width=128)
    config.training = dict(epochs=40, batch_size=32, learning_rate=3e-3, warmup=50)
    config.block = 5
    recipe = dict(
        beta=0.1, gamma=0.1, alpha=1.0, retain_rows=3, steps=80, batch_size=8, learning_rate=3e-4
    )
    config.methods = dict(
        npo=dict(recipe),
        npo_160=dict(recipe, method="npo", steps=160),
        npo_sam=dict(recipe, method="npo", steps=160, sam=0.1),
        grad_diff=dict(
            gamma=0.1, alpha=1.0, retain_rows=3, steps=80, batch_size=8, learning_rate=3e-4
        ),
    )
    config.selection = "chosen on other authors with another model"
    config.relearning = dict(shown=2, steps=30, batch_size=8, learning_rate=3e-4)
    return config
