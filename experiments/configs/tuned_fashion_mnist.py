"""Fashion-MNIST with the settings that a search found best by the average gap to retrained models.

    python -m experiments.benchmark --config experiments/configs/tuned_fashion_mnist.py --models=32
    python -m experiments.sweep --sweep=experiments/sweep_files/fashion_mnist.json
    python -m experiments.sweep --sweep=experiments/sweep_files/fashion_mnist_classes.json

The second line is the search: 123 settings on the requests `random:0.1:seed=11`,
`nearest:0.05:id=601` and `class:7`, with 16 originals and 16 oracles of its own. Of each method the
setting with the smallest mean over the three of the average gap (retain, forget and test accuracy
and membership attack, in points) was chosen, among those that collapsed no model on any. The third
line searches the four methods that are made for whole classes, 22 settings on the class alone.
Records are `experiments/sweep_files/fashion_mnist*.tuning.jsonl`. The mean gap of the chosen
settings in the search, where retrained models have 0.08, 0.41 and 0.07:

    average gap, points   random:0.1:seed=11   nearest:0.05:id=601   class:7
    do nothing                          1.67                  1.64     33.32
    bad_teacher                         1.63                  7.01     10.07
    blindspot                           1.02                  0.56      0.96
    boundary_expand                        -                     -     13.15
    boundary_shrink                        -                     -      6.97
    dmm                                 1.53                  1.69     30.19
    finetune                            1.13                  1.40     12.96
    fisher_forgetting                   1.49                  1.58     33.34
    gaussian_amnesiac                   1.30                  2.02      6.18
    gradient_ascent                     1.62                  1.59     24.93
    iau                                 8.37                  5.33      8.45
    iau_plain                           1.54                  1.73     10.94
    influence_ekfac                     1.13                  1.05      5.18
    l1_sparse                           1.15                  1.67     14.44
    laf                                 1.64                  1.45     12.88
    modhifi                                -                     -     20.20
    neg_grad_plus                       1.73                  1.76      6.95
    random_labels                       1.35                  2.78      1.75
    salun                               1.70                  1.59      9.68
    scrub                               1.11                  1.41     27.96
    ssd                                 1.67                  3.73     13.99
    task_negation                       1.16                  1.66      7.06
    unsir                                  -                     -      2.56

Exact influence is left out: a hundred products with the curvature of 10,000 images take longer than
training anew. So is NTK scrubbing, whose two systems take two trainings of processor time by 3
conjugate gradients, which leave 72 of 89 % of the retained images, and nearly five by 10, which
leave 88 % (weight decay 1, two models without `class:3`). SCRUB's rate and the smallest rates of
gradient ascent and fine-tuning lie on an edge of their grids.
"""

from ml_collections import config_dict

from experiments.configs import fashion_mnist


def get_config() -> config_dict.ConfigDict:
    """The task of `configs/fashion_mnist.py` with tuned methods."""
    config = fashion_mnist.get_config()
    methods = config.methods
    methods["bad_teacher"] = config_dict.create(
        optimizer="adam", learning_rate=0.0003, epochs=1, batch_size=50
    )
    methods["blindspot"] = config_dict.create(
        batch_size=50, optimizer="adam", learning_rate=0.001, teacher_epochs=1, epochs=2
    )
    methods["boundary_expand"] = config_dict.create(
        optimizer="adam", learning_rate=0.0003, epochs=5, batch_size=50
    )
    methods["boundary_shrink"] = config_dict.create(
        optimizer="adam", learning_rate=0.0001, epochs=5, batch_size=50
    )
    methods.dmm.update(learning_rate=0.003)
    methods["finetune"] = config_dict.create(
        batch_size=50, optimizer="momentum", weight_decay=0.0005, learning_rate=0.01, epochs=4
    )
    methods["fisher_forgetting"] = config_dict.create(alpha=1e-06)
    methods["gaussian_amnesiac"] = config_dict.create(
        batch_size=50, optimizer="adam", learning_rate=0.0003, epochs=1
    )
    methods["gradient_ascent"] = config_dict.create(
        batch_size=50, optimizer="momentum", learning_rate=0.0001, epochs=1
    )
    methods["iau"] = config_dict.create(optimizer="adam", learning_rate=0.004163)
    methods["iau_plain"] = config_dict.create(method="iau", optimizer="sgd", learning_rate=0.03981)
    methods["influence_ekfac"] = config_dict.create(method="influence", solver="ekfac", damping=0.1)
    methods["l1_sparse"] = config_dict.create(
        optimizer="momentum", learning_rate=0.01, gamma=0.001, epochs=3, batch_size=50
    )
    methods["laf"] = config_dict.create(
        optimizer="adam", learning_rate=0.001, epochs=2, batch_size=50
    )
    methods["modhifi"] = config_dict.create(share=0.1)
    methods["neg_grad_plus"] = config_dict.create(
        batch_size=50, epochs=2, optimizer="adam", learning_rate=0.0003, forget_weight=0.02
    )
    methods["random_labels"] = config_dict.create(
        optimizer="adam", learning_rate=0.0003, epochs=1, batch_size=50
    )
    methods["salun"] = config_dict.create(
        batch_size=50, optimizer="adam", learning_rate=0.0003, fraction=0.7, epochs=2
    )
    methods["scrub"] = config_dict.create(
        batch_size=50, optimizer="adam", learning_rate=0.003, alpha=0.1, max_epochs=1, epochs=3
    )
    methods["ssd"] = config_dict.create(alpha=4.879, dampening=0.3)
    methods["task_negation"] = config_dict.create(
        optimizer="momentum", learning_rate=0.001, epochs=4, batch_size=50, scale=0.9791
    )
    methods["unsir"] = config_dict.create(
        optimizer="adam", learning_rate=0.003, epochs=2, batch_size=50
    )
    config.selection = "chosen by the average gap on other forget sets with other models"
    return config
