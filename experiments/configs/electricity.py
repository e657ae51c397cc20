"""Electricity: a day's load from a week, by a temporal fusion transformer; clients are forgotten.

    python -m experiments.regression --config experiments/configs/electricity.py \\
        --config.data_dir=DIR --config.forget=client:12

DIR holds `LD2011_2014.txt` as it is distributed (`mu_jax.datasets.electricity` says more). Windows
of the clients named by `forget` are forgotten, in training and in test; they share no hour with
those of other clients. Numbers are in standard deviations of each client's load, and those of the
median forecast; windows are read into memory, 1.7 GB with this limit.

Hidden size, heads, dropout, rate, batch size, quantiles and the number of windows are those that
are commonly given for this dataset; none of them was checked against the publication, which also
clips gradients. It forgets a band of values, whose bounds are not known here, and Blindspot
compares forecasts by the quantile loss, here by their absolute difference, as a teacher's quantiles
are no targets. Epochs are a choice; nothing was tuned, and nothing was run at this size.
"""

from ml_collections import config_dict

_STEPS = dict(optimizer="adam", learning_rate=1e-3, training_mode=True, epochs=1)


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    return config_dict.create(
        dataset="electricity",
        data_dir=config_dict.placeholder(str),
        limit=450_000,
        model=dict(
            name="temporal_fusion_transformer",
            num_outputs=3,
            hidden_size=160,
            num_heads=4,
            dropout=0.1,
        ),
        loss="quantile_loss",  # of the quantiles 0.1, 0.5 and 0.9
        training=dict(
            optimizer="adam",
            learning_rate=1e-3,
            schedule="constant",
            weight_decay=0.0,
            batch_size=64,
            epochs=10,
        ),
        batch_size=256,
        forget="client:200-209",
        relearning=dict(learning_rate=1e-3, epochs=1, alpha=0.05),
        methods=dict(
            blindspot=dict(attention_weight=50.0, teacher_epochs=1, **_STEPS),
            gaussian_amnesiac=dict(**_STEPS),
            neg_grad_plus=dict(**_STEPS, forget_weight=0.05),
            finetune=dict(**_STEPS),
        ),
        selection="not tuned",
    )
