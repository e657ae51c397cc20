"""MUCAC: gender, smile and youth of faces, where persons are to be forgotten; for an accelerator.

    python -m experiments.nomus --config experiments/configs/mucac.py --config.data_dir=DIR
    python -m experiments.nomus --config experiments/configs/mucac.py --config.data_dir=DIR \\
        --config.label=smiling

DIR holds a copy of the dataset in the layout of its distribution (`mu_jax.datasets.faces.mucac`
says more); its images are read into memory, some 6 GB. With `label` all, three labels of yes and
no are predicted at once, with one of gender, smiling and young, two classes.

Rate, batch size and epochs are those of Choi and Na, 2023 (7 to 8 epochs there), and so are those
of the methods: 2 epochs are the steps that the retain set has, 492 in batches of 64, for all of
them. Their advanced NegGrad, the difference of two mean losses, is NegGrad+ with both weights 1/2
at twice the rate. Here images are not augmented, ResNet-18 has the stem for small images, and every
model starts anew with one attribute as well. Dampening has no published setting. Not run here.
"""

from ml_collections import config_dict

_STEPS = dict(optimizer="sgd", learning_rate=1e-3, steps=492, batch_size=64)


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    return config_dict.create(
        dataset="mucac",
        data_dir=config_dict.placeholder(str),
        label="all",
        limit=config_dict.placeholder(int),
        model=dict(name="resnet18"),
        training=dict(
            optimizer="sgd",
            schedule="constant",
            learning_rate=0.01,
            weight_decay=0.0,
            batch_size=64,
            epochs=7,
        ),
        batch_size=64,
        methods=dict(
            finetune=dict(_STEPS),
            gradient_ascent=dict(_STEPS),
            neg_grad_plus=dict(_STEPS, forget_weight=0.5, learning_rate=2e-3, batch_size=128),
            ssd=dict(alpha=10.0, dampening=1.0),
        ),
        selection="published defaults where there are some, not tuned",
    )
