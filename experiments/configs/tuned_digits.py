"""Digits with the settings that a search found best by the average gap to retrained models.

    python -m experiments.benchmark --config experiments/configs/tuned_digits.py
    python -m experiments.sweep --sweep=experiments/sweep_files/digits.json
    python -m experiments.sweep --sweep=experiments/sweep_files/digits_classes.json

The second line is the search: 216 settings on the requests `random:100:seed=11`,
`nearest:50:id=601` and `class:7`, with 24 originals and 24 oracles of its own. Of each method the
setting with the smallest mean over the three of the average gap (retain, forget and test accuracy
and membership attack, in points) was chosen, among those that collapsed no model on any. The third
line searches the four methods that are made for whole classes, 26 settings on the class alone.
Records are `experiments/sweep_files/digits*.tuning.jsonl`; `digits*.reporting.jsonl` have the
chosen ones on other requests with other models:

    average gap, points   random:100:seed=1   nearest:50:id=6   class:3
    retrain                            0.23              0.55      0.02
    do nothing                         1.58              2.30     36.99
    bad_teacher                        3.30             16.61      3.27
    blindspot                          0.68              0.98      0.24
    dmm                                0.58              0.88     20.21
    finetune                           6.36              0.25      4.10 (2 of 24 models collapsed)
    fisher_forgetting                  1.57              2.34     37.11
    gaussian_amnesiac                  1.44             12.38      6.40
    gradient_ascent                    0.61              3.07     13.00
    iau                                2.64              6.33     23.80
    iau_plain                          5.04             34.82      3.67
    influence                          0.46              3.01     34.25
    influence_ekfac                    3.43              9.42     21.08
    l1_sparse                          3.03              0.35      1.86
    laf                                1.40             15.54     16.30
    neg_grad_plus                      0.52             28.62      3.46
    ntk_scrub                          0.56             13.97      5.64
    random_labels                      1.24             14.91      0.86
    salun                              1.17             14.79      4.69
    scrub                              1.10              1.96      0.68
    ssd                                6.98             38.65      2.03
    task_negation                      8.03              8.51      2.37
    boundary_expand                       -                 -     16.58
    boundary_shrink                       -                 -     15.54
    modhifi                               -                 -     21.71
    unsir                                 -                 -      0.72

One setting for forget sets of all kinds is a compromise, and three of them are few to choose on:
SSD, plain IAU and NegGrad+ forget too much of these neighbors, and fine-tuning at three times the
rate of training is a partial retraining. The search prints the best setting on each kind too: with
small steps every method comes within a point of retraining on random sets, and leaves a class in
place. Fisher forgetting has no setting that does both: noise that reaches the class destroys the
rest. Grids were widened once where optima lay on an edge; the rates of Blindspot, LAF and boundary
expansion, the teacher epochs of Blindspot and the damping of exact influence still lie on one.
Settings of Blindspot between 0.54 and 0.83 are little to tell apart. NTK scrubbing solves its
systems best by 7 conjugate gradients: by 20 or 50 it leaves the class in place, whatever the
weight decay, and with so few a weight decay up to 0.1 changes little.
`configs/digits.py` has what was chosen by KLoM instead.
"""

from ml_collections import config_dict

from experiments.configs import digits


def get_config() -> config_dict.ConfigDict:
    """The default task with tuned methods."""
    config = digits.get_config()
    methods = config.methods
    methods.ssd.update(alpha=2.153, dampening=1.0)
    methods.iau.update(learning_rate=0.0171)
    methods.iau_plain = config_dict.create(method="iau", optimizer="sgd", learning_rate=3.0)
    methods.dmm.update(learning_rate=0.01)
    methods.finetune.update(learning_rate=0.3, epochs=10)
    methods.gradient_ascent.update(learning_rate=0.0138, epochs=5)
    methods.l1_sparse = config_dict.create(
        optimizer="momentum", learning_rate=0.2, gamma=0.001, epochs=10, batch_size=64
    )
    methods.neg_grad_plus = config_dict.create(
        optimizer="momentum", learning_rate=0.02, forget_weight=0.06, epochs=5, batch_size=64
    )
    methods.task_negation = config_dict.create(
        optimizer="momentum", learning_rate=0.01, scale=10.0, epochs=5, batch_size=64
    )
    methods.influence = config_dict.create(damping=1e-6)
    methods.influence_ekfac = config_dict.create(method="influence", solver="ekfac", damping=1e-4)
    methods.fisher_forgetting = config_dict.create(alpha=1e-8)
    for name, settings in _fits().items():
        methods[name] = config_dict.create(optimizer="adam", batch_size=64, **settings)
    methods.laf.batch_size = 16
    methods.modhifi = config_dict.create(share=0.2)
    methods.ntk_scrub = config_dict.create(weight_decay=1e-3, iterations=7)
    # A hundred neighbors are enough for an interval of a 95th percentile, fifty are not.
    config.requests = ("random:100:seed=1", "nearest:100:id=6", "class:3")
    config.selection = "chosen by the average gap on other forget sets with other models"
    return config


def _fits() -> dict[str, dict[str, float]]:
    """The methods that are fits with Adam."""
    return dict(
        blindspot=dict(learning_rate=0.064, epochs=6, teacher_epochs=20),
        gaussian_amnesiac=dict(learning_rate=0.004, epochs=6),
        scrub=dict(learning_rate=0.016, alpha=0.1, max_epochs=3, epochs=5),
        salun=dict(learning_rate=0.016, fraction=0.7, epochs=5),
        random_labels=dict(learning_rate=0.004, epochs=5),
        bad_teacher=dict(learning_rate=0.004, epochs=5),
        laf=dict(learning_rate=0.016, epochs=5),
        unsir=dict(learning_rate=0.016, epochs=2),
        boundary_shrink=dict(learning_rate=0.004, epochs=5),
        boundary_expand=dict(learning_rate=0.016, epochs=2),
    )
