"""ResNet-50 on ImageNet-1k, to be compiled only: nothing here has been run on data.

    python -m launch_tpu.preflight --topology=v5e:16x16 --methods=ssd,iau \\
        --config=experiments/configs/imagenet_resnet50.py --batch_per_chip=32

`shapes` stands for the data: 1,281,167 training images of 1000 classes, a tenth of them to forget.
Hyper-parameters of the methods are published defaults where there are some and stand for others;
they decide the number of steps, not the programs.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    return config_dict.create(
        dataset="imagenet2012",
        data_dir=config_dict.placeholder(str),
        limit=config_dict.placeholder(int),
        shapes=dict(
            examples=1_281_167,
            forget=128_117,
            inputs=(224, 224, 3),
            dtype="float32",
            num_classes=1000,
        ),
        model=dict(name="resnet50", dtype="bfloat16", remat=False),
        loss="cross_entropy",
        training=dict(
            optimizer="momentum", learning_rate=0.4, weight_decay=1e-4, batch_size=1024, epochs=90
        ),
        batch_size=1024,
        methods=dict(
            ssd=dict(alpha=2.0, dampening=1.0),
            iau=dict(optimizer="adam", learning_rate=1e-3),
            blindspot=dict(optimizer="adam", learning_rate=1e-3, teacher_epochs=2, epochs=1),
            dmm=dict(
                attribution=dict(checkpoints=1),
                optimizer="adam",
                learning_rate=5e-4,
                epochs=5,
                batch_size=1024,
            ),
            finetune=dict(optimizer="momentum", learning_rate=1e-2, epochs=1, batch_size=1024),
            gradient_ascent=dict(optimizer="sgd", learning_rate=1e-4, epochs=1, batch_size=1024),
            gaussian_amnesiac=dict(optimizer="adam", learning_rate=1e-3, epochs=1),
            neg_grad_plus=dict(optimizer="sgd", learning_rate=1e-3, epochs=1, batch_size=1024),
            retrain=dict(
                optimizer="momentum",
                learning_rate=0.4,
                weight_decay=1e-4,
                epochs=90,
                batch_size=1024,
            ),
        ),
        selection="published defaults, not tuned",
    )
