"""AgeDB: the age of a face with AllCNN; ages up to 30 are to be forgotten.

    python -m experiments.regression --config experiments/configs/agedb.py --config.data_dir=DIR

DIR holds a local copy of AgeDB in the layout of `mu_jax.datasets` (`agedb.csv` and the images it
names). Architecture, loss, rates and epochs are those of Tarun et al., ICML 2023, but for a
constant rate where they reduce it on a plateau, and no augmentation. Not run here. The median of
the retained ages errs by 15.8 years on the test images to retain, by 26.0 on those to forget.
"""

from ml_collections import config_dict

_SLOW = dict(optimizer="adam", learning_rate=1e-3, training_mode=True, epochs=1)


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    return config_dict.create(
        dataset="agedb",
        data_dir=config_dict.placeholder(str),
        limit=config_dict.placeholder(int),
        model=dict(name="allcnn"),
        loss="absolute_error",
        training=dict(
            optimizer="adam",
            learning_rate=1e-2,
            schedule="constant",
            weight_decay=0.0,
            batch_size=256,
            epochs=100,
        ),
        batch_size=256,
        forget="below:30.5",
        relearning=dict(learning_rate=1e-2, epochs=10, alpha=0.05),
        methods=dict(
            blindspot=dict(attention_weight=50.0, **_SLOW),
            gaussian_amnesiac=dict(**_SLOW),
            finetune=dict(_SLOW, epochs=5),
        ),
        selection="published",
    )
