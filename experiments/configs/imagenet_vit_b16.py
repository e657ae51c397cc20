"""ViT-B/16 on ImageNet-1k, to be compiled only: nothing here has been run on data.

    python -m launch_tpu.preflight --topology=v5p:8x8x16 --methods=ssd,iau \\
        --config=experiments/configs/imagenet_vit_b16.py --batch_per_chip=32

Data and methods as in `imagenet_resnet50.py`, with AdamW for training.
"""

from ml_collections import config_dict

from experiments.configs import imagenet_resnet50


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    config = imagenet_resnet50.get_config()
    training = dict(
        optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, batch_size=1024, epochs=300
    )
    config.model = dict(name="vit_b16", dtype="bfloat16", remat=False)
    config.training = training
    config.methods.retrain = training
    return config
