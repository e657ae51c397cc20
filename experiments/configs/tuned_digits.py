"""Digits with the settings that a search found best by the average gap to retrained models.

    python -m experiments.benchmark --config experiments/configs/tuned_digits.py
    python -m launch_tpu.sweep --sweep=experiments/sweeps/digits.json

The second line is the search: 93 trials of 191 records, on the requests `random:100:seed=11`,
`nearest:50:id=601` and `class:7`, with 24 originals and 24 oracles of its own. Of each method the
setting with the smallest mean over the three of the average gap (retain, forget and test accuracy
and membership attack) was chosen, among those that collapsed no model on any. Its records are
`experiments/sweeps/digits.tuning.jsonl`; `digits.reporting.jsonl` has the chosen settings on other
requests with other models.

One setting for forget sets of all kinds is a compromise, and three of them are few to choose on. On
the random set every method comes within a point of retraining with smaller steps, which leave the
class in place. Of what was chosen, SSD and plain IAU forget too much of the reported neighbours,
and fine-tuning at three times the rate of training, a partial retraining, collapses one model of 24
on the reported class. `configs/digits.py` has what was chosen by KLoM instead.
"""

from ml_collections import config_dict

from experiments.configs import digits


def get_config() -> config_dict.ConfigDict:
    """The default task with tuned methods."""
    config = digits.get_config()
    config.methods.ssd.update(alpha=2.153, dampening=1.0)
    config.methods.iau.update(learning_rate=0.0171)
    config.methods.iau_plain = config_dict.create(method="iau", optimizer="sgd", learning_rate=3.0)
    config.methods.dmm.update(learning_rate=0.01)
    config.methods.finetune.update(learning_rate=0.3, epochs=10)
    config.methods.gradient_ascent.update(learning_rate=0.0138, epochs=5)
    config.selection = "chosen by the average gap on other forget sets with other models"
    return config
