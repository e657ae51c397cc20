# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
"""
# Forget patients in a regression

Most methods of unlearning were made for classes. A regression has none: no label to replace by
another, no accuracy that can fall to zero. This page forgets a group of patients from a model
that predicts a number, the progression of diabetes after a year. It runs for less than a minute
and downloads nothing. `examples/walkthroughs/classification.py` explains the words.
"""

# %%
import jax
import numpy as np
import optax

import mu_jax as mu
from mu_jax import datasets, models, reporting

# %% [markdown]
# ## 1. The model
#
# 354 patients with ten measurements each. `datasets.load` standardizes inputs and targets, so an
# error of 1 is one standard deviation of the progression: a model that always answers the mean has
# a mean squared error of about 1. **That is the number to beat**, and the table below has its row.

# %%
patients, held_out = datasets.load("diabetes"), datasets.load("diabetes", "test")
train_set = mu.batches(patients.inputs, patients.targets, batch_size=64, index=patients.index)
test_set = mu.batches(held_out.inputs, held_out.targets, batch_size=64, index=held_out.index)

module = models.MLP((32,), 1)


def predict(params, state, inputs):
    """One number for each patient."""
    return module.apply(params, inputs)[:, 0]


model = mu.from_function(predict, mu.losses.squared_error)


def init(key):
    """Fresh variables: the parameters, and no other state."""
    return mu.Variables(module.init(key, patients.inputs[:1]))


def train(examples, seed):
    """The recipe of the training, which retraining has to repeat."""
    key = jax.random.key(seed)
    state, _ = mu.fit(
        model,
        mu.supervised(model),
        optax.adam(3e-3),
        init(key),
        examples,
        key=key,
        epochs=40,
        batch_size=64,
    )
    return state.variables


trained = train(train_set, 0)

# %% [markdown]
# ## 2. Whom to forget
#
# The patients with the mildest progression, about a fifth. This is a hard request: nobody like them
# is left in the retain set. After retraining, predictions for them will be **too high, and not
# nonsense**, because the measurements of these patients resemble those of others.

# %%
mild = patients.targets < np.quantile(patients.targets, 0.2)
forget, retain = mu.split(train_set, patients.index[mild])
print(f"forget {forget.num_examples} patients, retain {retain.num_examples}")

# %% [markdown]
# ## 3. Methods that need no classes
#
# * **Blindspot** was made for regressions. It trains a *teacher* for a few epochs on the retain set
#   alone: the teacher has never seen the forget set. Then the trained model learns to answer like
#   its teacher on the patients to forget, and like the data on all others.
# * **Gaussian amnesiac** trains on, with targets for the forget set that are drawn at random from a
#   normal distribution like that of the targets.
# * **Fine-tuning** trains on with the retain set.

# %%
optimizer = optax.adam(1e-3)
methods = {
    "blindspot": mu.blindspot(
        model,
        init=init,
        optimizer=optimizer,
        teacher_optimizer=optax.adam(1e-2),
        teacher_epochs=10,
        epochs=10,
    ),
    "gaussian amnesiac": mu.gaussian_amnesiac(model, optimizer, epochs=10, batch_size=64),
    "fine-tuning": mu.finetune(model, optimizer, epochs=10, batch_size=64),
}
unlearned = {}
for name, unlearn in methods.items():
    unlearned[name], info = unlearn(jax.random.key(1), trained, forget, retain)
    print(f"{name}: {info.effect}")

# %% [markdown]
# ## 4. Beside retrained models
#
# Errors of a regression depend much on the seed, so five models are retrained.

# %%
retrained = [train(retain, seed) for seed in range(1, 6)]
found = mu.evaluation.score(
    model,
    unlearned,
    forget=forget,
    retain=retain,
    test=test_set,
    retrained=retrained,
    original=trained,
    forget_set="mild progression",
)
print(found)

# %% [markdown]
# ## 5. How to read it
#
# Look at the forget column first. **Do nothing** has a small error there: the model has fitted
# these patients. **Retrain** has a larger one, since it has never seen anybody like them. An
# unlearned model should come close to the *retrained* error. One far above has been damaged on
# these patients: it gives away that they were special, and that is the opposite of forgetting.
#
# Then look at retain and test. A method that comes close to retraining on the forget set and ruins
# the test error has paid too much. The row **constant** shows the worst that is still honest.
#
# Last, beware of the **average gap** here. In a classification it is over accuracies and the
# attack. Errors have no common unit with an attack, so in a regression the attack is all that is
# left in it: the constant predictor has a small gap too. Do not choose a method by it.
#
# ## 6. The answers themselves
#
# A mean error hides in which direction a model errs. So here is the mean answer for the forgotten
# patients in standard deviations, beside the truth.

# %%
answers = {"truth": np.asarray(forget.targets)}
for name in ("do nothing", *methods, "retrain"):
    answers[name] = found.arrays[name]["forget"].predictions.mean(axis=0)
for name, values in answers.items():
    print(f"{name:18} mean {values.mean():+.2f}, from {values.min():+.2f} to {values.max():+.2f}")

# %% [markdown]
# Forgetting has moved the answers from those of the trained model towards those of the retrained
# ones. How far single patients are from retraining is one line more: the mean distance of the
# answers, in which errors up and down cannot cancel.

# %%
target = answers["retrain"]
distance = {name: float(np.abs(answers[name] - target).mean()) for name in answers}
for name in ("do nothing", *methods):
    print(f"{name:18} {distance[name]:.3f} from the mean answer of the retrained models")

# %% [markdown]
# ## 7. Pictures

# %%
try:
    from mu_jax import plots
except ImportError:
    print("No pictures: this version or this installation has none")
else:
    figures = {"losses": plots.losses(reporting.Arrays(found.arrays))}

# %% [markdown]
# ## Where to go from here
#
# `python -m experiments.regression` runs the same question over several seeds, with more methods,
# with what comes back when copies *relearn* the forgotten patients, and with the distance between
# the distributions of answers.
