"""MUFAC: age groups of faces, where persons are to be forgotten; ResNet-18, for an accelerator.

    python -m experiments.nomus --config experiments/configs/mufac.py --config.data_dir=DIR

DIR holds a copy of the dataset in the layout of its distribution (`mu_jax.datasets.faces.mufac`
says more); its images are read into memory, some 3 GB. Rate, its two drops, momentum, batch size
and epochs are those of Choi and Na, 2023, and so are rate, epochs and batch size of the methods.
Here images are not augmented, ResNet-18 has the stem for small images, and the forget set ends
between two families. Dampening has no published setting.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    return config_dict.create(
        dataset="mufac",
        data_dir=config_dict.placeholder(str),
        limit=config_dict.placeholder(int),
        model=dict(name="resnet18"),
        training=dict(
            optimizer="momentum",
            schedule="thirds",  # a tenth of the rate at each third of the steps
            learning_rate=0.01,
            weight_decay=0.0,
            batch_size=64,
            epochs=30,
        ),
        batch_size=64,
        methods=dict(
            finetune=dict(optimizer="sgd", learning_rate=1e-3, epochs=2, batch_size=64),
            gradient_ascent=dict(optimizer="sgd", learning_rate=1e-3, steps=268, batch_size=64),
            ssd=dict(alpha=10.0, dampening=1.0),
        ),
        selection="published defaults where there are some, not tuned",
    )
