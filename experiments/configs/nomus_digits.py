"""Digits learnt by heart: few examples, no weight decay, so that there is something to forget.

    python -m experiments.nomus --config experiments/configs/nomus_digits.py

Needs no data on disk. With the weight decay and the 1,000 examples of `digits.py`, an attack on a
single model finds nothing even before unlearning. Hyper-parameters were chosen on the request
`random:0.5:seed=11` with other models, as those with the smallest mean gap in utility and
forgetting score to retrained models:

* `finetune`: of rates 3e-2, 0.1, 0.3, 1 and weight decay 0, 1e-2.
* `gradient_ascent`: of rates 1e-2, 2e-2, 5e-2, 0.1, 0.2.
* `iau`: of Adam's 3e-3, 1e-2, 2e-2, 5e-2.
* `ssd`: of alpha 0.5, 1, 2, 3 and dampening 0.1, 1. Nothing is better than to select nothing, which
  is what alpha 2 does: half of the examples, drawn at random, have no weights of their own.
"""

from ml_collections import config_dict

from experiments.configs import digits


def get_config() -> config_dict.ConfigDict:
    """The default configuration of `experiments.nomus`."""
    config = digits.get_config()
    config.limit = 200
    config.training.update(weight_decay=0.0, epochs=100)
    config.methods = dict(
        ssd=dict(alpha=2.0, dampening=1.0),
        iau=dict(optimizer="adam", learning_rate=3e-3),
        finetune=dict(
            optimizer="momentum", learning_rate=0.3, weight_decay=1e-2, epochs=10, batch_size=64
        ),
        gradient_ascent=dict(optimizer="momentum", learning_rate=0.1, epochs=5, batch_size=64),
    )
    config.selection = "chosen on another forget set with other models"
    return config
