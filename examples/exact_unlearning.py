"""Exact unlearning: requests to SISA and S3T on digits, served by one loop from a store.

python -m examples.exact_unlearning
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import mu_jax as mu

KEY = jax.random.key(0)
LAYERS = ("block_2", "block_1", "block_0")  # from the top of the network down


def predict(params, state, inputs):
    """A residual network of three blocks."""
    hidden = jnp.tanh(inputs @ params["stem"]["kernel"])
    for name in reversed(LAYERS):
        hidden = hidden + jnp.tanh(hidden @ params[name]["kernel"] + params[name]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def init(key):
    """New variables."""
    sizes = {"stem": (64, 48), **dict.fromkeys(LAYERS, (48, 48)), "head": (48, 10)}
    params = {}
    for number, (name, shape) in enumerate(sizes.items()):
        kernel = jax.random.normal(jax.random.fold_in(key, number), shape) / shape[0] ** 0.5
        params[name] = {"kernel": kernel, "bias": jnp.zeros(shape[1])}
    return mu.Variables(params)


MODEL = mu.from_function(predict, optax.softmax_cross_entropy_with_integer_labels)


def serve(store, unlearn, like, data, forget_ids):
    """One request to any method: unlearn, publish, swap. Nothing in it knows of the method."""
    parent = store.serving()
    forget, retain = store.split(data, forget_ids)
    after, info = unlearn(KEY, store.restore(like=like), forget, retain)
    version = store.publish(after, method=unlearn.words, parent=parent, forgotten=forget.index)
    store.swap(version, expected=parent)
    return after, info


def accuracy(model, variables, data):
    """The share of examples whose class is named."""
    return float((mu.outputs(model, variables, data).argmax(axis=-1) == data.targets).mean())


def main(requests=5, epochs=30):
    """Train, serve requests for single rows, and compare with the closed forms."""
    digits = load_digits()
    rows = np.random.default_rng(0).permutation(len(digits.target))
    inputs, classes = (digits.data[rows] / 16).astype(np.float32), digits.target[rows]
    data = mu.batches(inputs, classes.astype(np.int32), batch_size=32)
    public, private = data.take(slice(0, 300)), data.take(slice(300, 1500))
    test_set = data.take(slice(1500, None))
    print(f"{public.num_examples} public rows, {private.num_examples} that people may take back")

    sisa = mu.exact.sisa(
        MODEL, optax.adam(3e-3), init=init, shards=4, slices=3, epochs=epochs, batch_size=32
    )
    trained, info = sisa.train(KEY, private)
    work = info.examples.sum()
    base = mu.fit(
        MODEL, mu.supervised(MODEL), optax.adam(3e-3), init(KEY), public, key=KEY, epochs=epochs
    )[0].variables
    s3t = mu.exact.s3t(
        MODEL,
        optax.adam(3e-3),
        layers=LAYERS,
        head="head",
        shards=4,
        rank=8,
        epochs=epochs // 3,
        batch_size=32,
    )
    adapted, _ = s3t.train(KEY, base, private)
    asked = np.random.default_rng(0).choice(np.asarray(private.index), requests, replace=False)
    found = {}
    for name, protocol, variables in (("SISA", sisa, trained), ("S3T", s3t, adapted)):
        found[name] = [accuracy(protocol.model, variables, test_set)]
        shares = []
        with tempfile.TemporaryDirectory() as directory:
            store = mu.store.Store(directory)
            store.swap(store.publish(variables, method="train"))
            for one in asked:
                after, said = serve(store, protocol.unlearn, variables, private, [int(one)])
                found[name].append(accuracy(protocol.model, after, test_set))
                shares.append(float(said.example_passes / work))
            assert store.forgotten().size == requests
        print(f"{name}: accuracy {found[name][0]:.3f}, after {requests} requests", end=" ")
        print(f"{found[name][-1]:.3f}; a request cost {np.mean(shares):.3f} trainings")
    found["share"] = mu.exact.sisa_cost(4, 3, epochs)
    plan = mu.exact.plan_s3t(s3t.orders, shards=4, epochs=epochs // 3)
    print(f"SISA was expected to cost {found['share']:.3f} trainings a request, and S3T to survive")
    print(f"{plan.last:.0f} requests without any, {plan.sure} with 95 % confidence")
    print(f"the base of S3T alone: {accuracy(MODEL, base, test_set):.3f}")
    return found


if __name__ == "__main__":
    main()
