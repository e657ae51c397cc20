"""Corrective unlearning on digits with a small perceptron: a trigger, and two confused classes.

    python -m experiments.corrective --config experiments/configs/corrective_digits.py

Needs no data on disk; data, model and training are those of `digits.py`. Hyper-parameters were
chosen for each manipulation, as in the publication, but on sets of seed 1 with other models: those
with the smallest mean gap to a model retrained without the manipulated set, over both accuracies
and known fractions of 0.1, 0.5 and 1:

* `ssd`: of alpha 1, 2, 3, 4, 5, 10, 20, 30, 50 and dampening 0.1, 0.5, 1. Against confused classes
  nothing is better than to select nothing, which is what alpha 20 does.
* `iau`: of Adam's 1e-3, 3e-3, 1e-2, 2e-2 and plain steps 0.03, 0.3, 1.
* `finetune`: of rates 1e-2, 3e-2, 0.1, 0.3.
* `gradient_ascent`: of rates 5e-4, 1e-3, 2e-3, 5e-3, 2e-2 and 5 or 10 epochs.
"""

from ml_collections import config_dict

from experiments.configs import digits


def get_config() -> config_dict.ConfigDict:
    """The default configuration of `experiments.corrective`."""
    config = digits.get_config()
    config.trigger = dict(size=2, value=1.0)  # pixels of 8 x 8, and their level
    config.manipulations = dict(
        poison=dict(count=80, label=0, seed=0),
        interclass=dict(count=80, classes=(3, 8), seed=0),
    )
    config.known_seed = 0  # which part of the manipulated set is known
    config.methods = dict(
        ssd=dict(alpha=20.0, dampening=0.1),
        iau=dict(optimizer="sgd", learning_rate=3e-2),
        finetune=dict(
            optimizer="momentum", learning_rate=1e-2, weight_decay=1e-3, epochs=10, batch_size=64
        ),
        gradient_ascent=dict(optimizer="momentum", learning_rate=1e-3, epochs=5, batch_size=64),
    )
    config.methods_of = dict(  # what is different for a manipulation
        poison=dict(
            ssd=dict(alpha=3.0, dampening=0.5),
            iau=dict(optimizer="adam", learning_rate=2e-2),
            finetune=dict(learning_rate=0.3),
            gradient_ascent=dict(learning_rate=2e-2),
        )
    )
    config.selection = "chosen on other manipulated sets with other models"
    return config
