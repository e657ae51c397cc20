"""Digits with the settings that a search found best by the average gap to retrained models.

    python -m experiments.benchmark --config experiments/configs/tuned_digits.py
    python -m experiments.sweep --sweep=experiments/sweep_files/digits.json

The second line is the search: 228 trials of 327 records, on the requests `random:100:seed=11`,
`nearest:50:id=601` and `class:7`, with 24 originals and 24 oracles of its own. Of each method the
setting with the smallest mean over the three of the average gap (retain, forget and test accuracy
and membership attack, in points) was chosen, among those that collapsed no model on any. Records
are `experiments/sweep_files/digits.tuning.jsonl`; `digits.reporting.jsonl` has the chosen ones on
other requests with other models:

    average gap, points   random:100:seed=1   nearest:50:id=6   class:3
    do nothing                         1.58              2.30     36.99
    blindspot                          0.93              1.51      0.23
    dmm                                0.58              0.88     20.21
    finetune                           6.36              0.25     one of 24 models collapsed
    gradient_ascent                    0.61              3.07     13.00
    neg_grad_plus                      0.52             28.62      3.46
    iau                                2.64              6.33     23.80
    iau_plain                          5.04             34.82      3.67
    ssd                                6.98             38.65      2.03
    gaussian_amnesiac                  1.44             12.38      6.40
    scrub                              1.10              1.96      0.68
    salun                              1.17             14.79      4.69

One setting for forget sets of all kinds is a compromise, and three of them are few to choose on:
SSD, plain IAU and NegGrad+ forget too much of these neighbors, and fine-tuning at three times the
rate of training is a partial retraining. The search prints the best setting on each kind too: with
small steps every method comes within a point of retraining on random sets, and leaves a class in
place. The grids of SSD, IAU and fine-tuning were widened once, when optima lay on an edge; the
rates of Blindspot, SCRUB and SalUn still lie on one, and so does the fraction of SalUn. In these
records retrained models stand beside themselves, so that the floor of the gap is not known: five
settings of Blindspot lie between 0.59 and 0.83, which is little to tell them apart.
`configs/digits.py` has what was chosen by KLoM instead.
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
    config.methods.neg_grad_plus = config_dict.create(
        optimizer="momentum", learning_rate=0.02, forget_weight=0.06, epochs=5, batch_size=64
    )
    config.methods.blindspot = config_dict.create(
        optimizer="adam", learning_rate=0.016, epochs=6, teacher_epochs=5, batch_size=64
    )
    config.methods.gaussian_amnesiac = config_dict.create(
        optimizer="adam", learning_rate=0.004, epochs=6, batch_size=64
    )
    config.methods.scrub = config_dict.create(
        optimizer="adam", learning_rate=0.016, alpha=0.1, max_epochs=3, epochs=5, batch_size=64
    )
    config.methods.salun = config_dict.create(
        optimizer="adam", learning_rate=0.016, fraction=0.7, epochs=5, batch_size=64
    )
    config.selection = "chosen by the average gap on other forget sets with other models"
    return config
