"""Fashion-MNIST (28x28 images of clothing, 10 classes) with a small convolutional network.

    python -m experiments.quickstart --config experiments/configs/fashion_mnist.py
    python -m experiments.benchmark --config experiments/configs/fashion_mnist.py \\
        --config.data_dir=DIR

The files are those of Debian's package `dataset-fashion-mnist`; DIR is another folder of the four
IDX files. Trained is on the first 10,000 images of the training file, whose order is random: 942 to
1,027 of each class, the ids 0 to 9,999. All 10,000 test images are used. Eight epochs reach 90 % of
the training and 85 % of the test images. The hyper-parameters of the methods are beginnings and
have not been tuned; `experiments/configs/tuned_fashion_mnist.py` has what a search found.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The default configuration of every binary."""
    fit = dict(optimizer="adam", learning_rate=1e-3, epochs=2, batch_size=50)
    return config_dict.create(
        dataset="fashion_mnist",
        data_dir="/usr/share/datasets",
        limit=10_000,
        model=dict(name="cnn", features=(8, 16, 32), first_stride=2),
        training=dict(
            optimizer="momentum", learning_rate=0.1, weight_decay=5e-4, batch_size=50, epochs=8
        ),
        batch_size=500,  # of statistics and evaluation; results do not depend on it
        methods=dict(
            ssd=dict(alpha=5.0, dampening=1.0),
            iau=dict(optimizer="adam", learning_rate=1e-3),
            dmm=dict(
                attribution=dict(
                    checkpoints=8,
                    dim=1024,
                    retain_only=True,
                    calibration=("random:0.1:seed=99", "nearest:0.05:seed=98"),
                    calibration_models=8,
                ),
                forget_multiplier=3.0,
                retain_multiplier=4.0,
                **fit,
            ),
            finetune=dict(
                optimizer="momentum", learning_rate=1e-2, weight_decay=5e-4, epochs=2, batch_size=50
            ),
            gradient_ascent=dict(optimizer="momentum", learning_rate=1e-3, epochs=2, batch_size=50),
            neg_grad_plus=dict(forget_weight=0.05, **fit),
            scrub=dict(max_epochs=1, **fit),
            salun=dict(fraction=0.5, **fit),
            blindspot=dict(teacher_epochs=2, **fit),
            gaussian_amnesiac=dict(**fit),
        ),
        requests=("random:0.1:seed=1", "nearest:0.05:id=6", "class:3"),
        selection="beginnings, not tuned",
    )
