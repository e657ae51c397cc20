"""Corrective unlearning on CIFAR-10 with ResNet-9: the published setting, for an accelerator.

    python -m experiments.corrective --config experiments/configs/corrective_cifar10.py \\
        --config.data_dir=DIR --fractions=0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1

DIR holds CIFAR-10 as TFDS prepares it (ArrayRecord). Architecture, rate and its schedule, momentum,
weight decay, batch size, trigger, classes and numbers of manipulated examples are those of Goel et
al., TMLR 2024; 41 epochs are 4,018 of its 4,000 iterations. Here images are in [0, 1] and are not
cropped or flipped, arithmetic is float32, the last model counts rather than the best one on the
test set, and every size of the manipulated set needs a run of its own: the publication has 100, 500
and 1,000 poisoned, 500, 2,500 and 5,000 confused examples
(`--config.manipulations.interclass.count=2500`). It reports the best hyper-parameters of a grid in
each setting; those below are from the middle of its grid, and are not tuned.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    return config_dict.create(
        dataset="cifar10",
        data_dir=config_dict.placeholder(str),
        limit=config_dict.placeholder(int),
        model=dict(name="resnet9"),
        training=dict(
            optimizer="momentum",
            schedule="linear",  # up over a hundredth of the steps, then down to a fifth
            learning_rate=0.025,
            weight_decay=5e-4,
            batch_size=512,
            epochs=41,
        ),
        batch_size=512,
        trigger=dict(size=3, value=1.0),
        manipulations=dict(
            poison=dict(count=500, label=0, seed=0),
            interclass=dict(count=500, classes=(3, 5), seed=0),  # cats and dogs
        ),
        known_seed=0,
        methods=dict(
            ssd=dict(alpha=10.0, dampening=1.0),
            finetune=dict(  # of all layers
                optimizer="momentum",
                learning_rate=2.5e-2,
                weight_decay=5e-4,
                steps=1000,
                batch_size=512,
                training_mode=True,
            ),
        ),
        selection="middle of the published grid, not tuned",
    )
