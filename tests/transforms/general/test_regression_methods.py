"""The published order of the regression methods, on digits as numbers."""

import jax
import numpy as np
import optax
import pytest
import sklearn.datasets

import mu_jax as mu
from mu_jax.models import RegressionCNN

SEEDS, TRAIN_ROWS = 5, 1437
# Errors on the test rows to retain and to forget, and W1 to the retrained model's predictions on
# the forget set: mean and standard deviation of five runs of an independent program.
PUBLISHED = {
    "original": ((0.73, 0.32, 5.42), (0.05, 0.12, 0.16)),
    "retrained": ((0.43, 5.38, 0.00), (0.08, 0.26, 1e-9)),
    "teacher": ((1.80, 3.31, 2.05), (0.19, 0.45, 0.48)),
    "finetune": ((0.64, 0.39, 5.17), (0.08, 0.10, 0.23)),
    "amnesiac": ((0.62, 1.89, 3.56), (0.07, 0.52, 0.66)),
    "blindspot 5": ((0.67, 2.85, 2.52), (0.09, 0.37, 0.48)),
    "blindspot 20": ((0.60, 3.30, 2.06), (0.05, 0.38, 0.48)),
}


def digits():
    found = sklearn.datasets.load_digits()
    rows = np.random.RandomState(0).permutation(1797)
    images = (found.images[rows, :, :, None] / 16).astype(np.float32)
    data = mu.batches(images, found.target[rows].astype(np.float32), batch_size=64)
    train, test = data.take(slice(TRAIN_ROWS)), data.take(slice(TRAIN_ROWS, None))
    return train, test, mu.split(train, np.flatnonzero(np.asarray(train.targets) <= 2))


def methods(model, init):
    """Every method with its published learning rate and epochs."""
    fast, slow = optax.adam(1e-2), optax.adam(1e-3)
    recipe = mu.BlindspotRecipe(training_mode=True)

    def blindspot(epochs):
        return mu.blindspot(model, init=init, optimizer=slow, epochs=epochs, recipe=recipe)

    return {
        "retrained": mu.retrain(model, fast, init=init, epochs=60),
        "teacher": mu.retrain(model, fast, init=init, epochs=2),
        "finetune": mu.finetune(model, slow, epochs=5, training_mode=True),
        "amnesiac": mu.gaussian_amnesiac(model, slow, epochs=5, training_mode=True),
        "blindspot 5": blindspot(5),
        "blindspot 20": blindspot(20),
    }


@pytest.mark.slow
def test_the_order_of_the_methods_and_their_errors():
    train, test, (forget, retain) = digits()
    model = mu.from_linen(RegressionCNN(), mu.losses.absolute_error)
    init = lambda key: RegressionCNN().init(key, train.inputs[:1])  # noqa: E731
    supervised = mu.supervised(model, training_mode=True)
    found = {name: [] for name in PUBLISHED}
    low = np.asarray(test.targets) <= 2
    for seed in range(SEEDS):
        key = jax.random.key(seed)
        start = init(jax.random.fold_in(key, 5))
        state, _ = mu.fit(model, supervised, optax.adam(1e-2), start, train, key=key, epochs=60)
        models = {"original": state.variables}
        for name, unlearn in methods(model, init).items():
            models[name], _ = unlearn(key, state.variables, forget, retain)
        reference = np.sort(model.apply(models["retrained"], forget.inputs))
        for name, variables in models.items():
            errors = np.abs(np.asarray(mu.outputs(model, variables, test)) - test.targets)
            predictions = np.sort(model.apply(variables, forget.inputs))
            distance = np.abs(predictions - reference).mean()
            found[name].append((errors[~low].mean(), errors[low].mean(), distance))
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    for name, (mean, deviation) in PUBLISHED.items():
        assert np.all(np.abs(means[name] - mean) <= 2 * np.asarray(deviation)), (name, means[name])
    distances = [means[name][2] for name in ("blindspot 20", "blindspot 5", "amnesiac", "finetune")]
    assert distances == sorted(distances)
    assert means["finetune"][2] <= means["original"][2]
    assert abs(means["teacher"][2] - means["blindspot 20"][2]) < 0.5
