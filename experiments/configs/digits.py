"""Digits (8x8 images, 10 classes, 1,500 to train, 297 to test) with a small perceptron.

    python -m experiments.quickstart --config experiments/configs/digits.py

Needs no data on disk. The settings of the methods were chosen on the request `class:7` and seeds
100 to 102, and are reported on other requests and seeds.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The default configuration of every binary."""
    return config_dict.create(
        dataset="digits",
        data_dir=config_dict.placeholder(str),
        limit=config_dict.placeholder(int),  # use only so many training examples
        model=dict(name="mlp", features=(128, 64)),
        training=dict(
            optimizer="adam", learning_rate=2e-3, weight_decay=0.0, batch_size=64, epochs=40
        ),
        batch_size=256,  # of statistics and evaluation; results do not depend on it
        methods=dict(
            ssd=dict(alpha=5.0, dampening=0.1),
            iau=dict(optimizer="adam", learning_rate=1e-2),
            finetune=dict(optimizer="adam", learning_rate=1e-2, epochs=5, batch_size=64),
            gradient_ascent=dict(optimizer="sgd", learning_rate=1.3e-2, epochs=4, batch_size=64),
        ),
        selection="fixed, chosen on another forget set and other seeds",
    )
