"""CIFAR-10 with ResNet-9: the setting of the data-unlearning benchmark, for an accelerator.

    python -m experiments.benchmark --config experiments/configs/cifar10.py \\
        --config.data_dir=DIR --requests=dub_forget_sets.npz:cifar10_forget_set_5 --models=100

DIR holds CIFAR-10 as TFDS prepares it (ArrayRecord). Architecture, epochs, peak rate, momentum,
weight decay and batch size are those of Georgiev et al., ICLR 2025; the schedule is a cosine from
the peak, there it is a triangle. Forget sets refer to the original order of the training images,
which is what the ids are. The hyper-parameters of the methods are published defaults, where there
are some, and have not been tuned here.
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
            optimizer="momentum", learning_rate=0.4, weight_decay=5e-4, batch_size=512, epochs=24
        ),
        batch_size=512,
        methods=dict(
            ssd=dict(alpha=10.0, dampening=1.0),
            dmm=dict(
                attribution=dict(
                    checkpoints=20,
                    dim=2048,
                    retain_only=True,
                    calibration=("random:100:seed=99", "nearest:100:seed=98"),
                    calibration_models=8,
                ),
                optimizer="adam",
                learning_rate=1e-4,
                epochs=4,
                batch_size=512,
                forget_multiplier=5.0,
                retain_multiplier=20.0,
            ),
            finetune=dict(
                optimizer="momentum",
                learning_rate=1e-2,
                weight_decay=5e-4,
                epochs=10,
                batch_size=512,
            ),
            gradient_ascent=dict(
                optimizer="momentum", learning_rate=1e-4, epochs=5, batch_size=512
            ),
        ),
        selection="published defaults, not tuned",
    )
