"""K-FAC and EK-FAC against explicit Kronecker computations in float64."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kronecker_cases import CASES, CLASSES, WEIGHT, by_hand

import mu_jax as mu
from mu_jax.statistics import curvature

CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def case_of(name):
    return CASES[name]()


@functools.cache
def found_of(name, labels="expected"):
    case = case_of(name)
    return curvature.kronecker_factors(case.model, case.variables, case.data(), labels=labels)


@pytest.mark.quick("dense-model", "convolution-expected")
@pytest.mark.parametrize("labels", ["model", "expected", "data"])
@pytest.mark.parametrize("name", CASES)
def test_factors_are_those_of_a_loop(name, labels):
    case, found = case_of(name), found_of(name, labels)
    sums, _ = by_hand(case, labels)
    np.testing.assert_allclose(found.factors.weight, WEIGHT.sum(), **CLOSE)
    assert set(found.factors.sum["layers"]) == set(sums)
    for layer, (inputs, outputs, count) in sums.items():
        own = found.factors.sum["layers"][layer]
        np.testing.assert_allclose(own.inputs[0], inputs, **CLOSE)
        np.testing.assert_allclose(own.outputs[0], outputs, **CLOSE)
        np.testing.assert_allclose(own.positions, count, **CLOSE)


@pytest.mark.quick("dense-model", "convolution-expected")
@pytest.mark.parametrize("labels", ["model", "expected", "data"])
@pytest.mark.parametrize("name", CASES)
def test_eigenvalues_are_those_of_a_loop(name, labels):
    case, found = case_of(name), found_of(name, labels)
    _, gradients = by_hand(case, labels, again=True)
    for layer, basis in zip(found.layers.layers, found.bases):
        own = found.layers.names[layer.kernel]
        q_a, q_s = (np.asarray(q[0]) for q in basis.vectors)
        squares = sum(w * (q_a.T @ g[own] @ q_s) ** 2 for w, g in gradients)
        np.testing.assert_allclose(found.eigenvalues.sum[own][0], squares, **CLOSE)


@pytest.mark.quick("convolution")
@pytest.mark.parametrize("name", CASES)
def test_the_inverse_is_that_of_the_kronecker_product(name):
    case, found = case_of(name), found_of(name)
    plain = dataclasses.replace(found, eigenvalues=None)
    vector = jax.tree.map(lambda x: jnp.sin(1 + jnp.arange(x.size)).reshape(x.shape), params(case))
    solved = plain.inverse(0.3)(vector)
    for layer, (a, s, count) in by_hand(case, "expected")[0].items():
        matrix = np.kron(a, s) / count / WEIGHT.sum()
        expected = np.linalg.solve(matrix + 0.3 * np.eye(len(matrix)), flat(case, layer, vector))
        np.testing.assert_allclose(flat(case, layer, solved), expected, **CLOSE)
    back = plain.inverse(0.3).product(solved)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), back, vector)


def params(case):
    return case.variables.params


def flat(case, layer, tree):
    """Kernel and bias as one vector, that of the bias last among the inputs."""
    kernel = np.asarray(tree[layer]).reshape(-1, case.kernels[layer][1])
    bias = case.biases[layer]
    return np.concatenate([kernel, np.asarray(tree[bias])[None]] if bias else [kernel]).ravel()


def test_other_leaves_have_the_diagonal_of_the_fisher():
    case, found = case_of("convolution"), found_of("convolution")
    assert found.layers.blocks == {
        "bias": "with kernel",
        "head": "kronecker",
        "kernel": "kronecker",
        "scale": "diagonal",
        "shift": "with head",
    }
    fisher = mu.collect(mu.statistics.importance(case.model, "fisher"), case.variables, case.data())
    own = found.factors.sum["diagonal"]["scale"]
    np.testing.assert_allclose(own, fisher.sum["scale"], **CLOSE)
    scale = found.inverse(0.2)(params(case))["scale"]
    expected = params(case)["scale"] / (fisher.value["scale"] + 0.2)
    np.testing.assert_allclose(scale, expected, **CLOSE)


@pytest.mark.quick("convolution")
@pytest.mark.parametrize("name", CASES)
def test_damping_of_its_own_is_a_tenth_of_the_mean_eigenvalue(name):
    found = found_of(name)
    for given in (None, 0.0):
        inverse = found.inverse(given)
        blocks = (*found.spectrum, *inverse.diagonal)
        for damping, values in zip(inverse.damping, blocks, strict=True):
            np.testing.assert_allclose(damping, 0.1 * values.mean(), **CLOSE)


def gauss_newton(model, variables, data):
    """The matrix itself, from products with unit vectors."""
    ravel, unravel = jax.flatten_util.ravel_pytree(model.params(variables))

    def column(unit):
        product = curvature.curvature_product(model, variables, data, unravel(unit))
        return jax.flatten_util.ravel_pytree(product)[0]

    return np.stack([column(unit) for unit in jnp.eye(len(ravel))])


def matrix_of(factors, like):
    ravel, unravel = jax.flatten_util.ravel_pytree(like)
    inverse = factors.inverse(1.0)
    columns = [
        jax.flatten_util.ravel_pytree(inverse.product(unravel(unit)))[0]
        for unit in jnp.eye(len(ravel))
    ]
    return np.stack(columns) - np.eye(len(ravel))


def one_layer(inputs, loss, outputs=2):
    """A dense layer with a bias on some inputs."""
    model = mu.from_function(lambda p, state, x: x @ p["w"] + p["b"], loss)
    weights = {"w": jnp.sin(jnp.arange(3.0 * outputs)).reshape(3, -1), "b": jnp.ones(outputs)}
    targets = np.zeros(len(inputs), int)
    if loss is mu.losses.squared_error:
        targets = np.zeros((len(inputs), outputs))
    return model, mu.Variables(weights), mu.batches(inputs, targets, batch_size=2)


EXACT = {
    "one example": (np.array([[1.0, -2.0, 0.5]]), mu.losses.cross_entropy),
    "inputs that are all the same": (np.ones((4, 3)) * [1, 2, -1.0], mu.losses.cross_entropy),
    "a linear layer and squared errors": (
        np.random.default_rng(0).normal(size=(5, 3)),
        mu.losses.squared_error,
    ),
}


@pytest.mark.quick("a linear layer and squared errors-kfac")
@pytest.mark.parametrize("eigenvalues", [False, True], ids=["kfac", "ekfac"])
@pytest.mark.parametrize("name", EXACT)
def test_where_the_factors_are_exact(name, eigenvalues):
    model, variables, data = one_layer(*EXACT[name])
    found = curvature.kronecker_factors(
        model, variables, data, labels="expected", eigenvalues=eigenvalues
    )
    expected = gauss_newton(model, variables, data)
    np.testing.assert_allclose(matrix_of(found, variables.params), expected, **CLOSE)


@pytest.mark.slow
def test_eigenvalues_bring_the_matrix_nearer():
    case, found = case_of("dense"), found_of("dense")
    exact = gauss_newton(case.model, case.variables, case.data())
    both = dataclasses.replace(found, eigenvalues=None), found
    leaves = [np.full(x.size, k) for k, x in enumerate(jax.tree.leaves(params(case)))]
    block = np.where(np.concatenate(leaves) == 2, 1, 0)  # the second kernel, of the others apart
    inside = block[:, None] == block[None]
    plain, full = (np.linalg.norm((matrix_of(f, params(case)) - exact)[inside]) for f in both)
    assert full < 0.9 * plain


@pytest.mark.slow
def test_sums_of_parts_are_merged_and_taken_out():
    case, whole = case_of("convolution"), found_of("convolution", "model")
    collect = functools.partial(curvature.kronecker_factors, case.model, case.variables, like=whole)
    part, rest = collect(case.data(rows=slice(2))), collect(case.data(rows=slice(2, None)))
    for found, expected in ((part.merge(rest), whole), (whole.without(part), rest)):
        close(found.factors.sum, expected.factors.sum)
        close(found.eigenvalues.sum, expected.eigenvalues.sum)
        close(found.factors.weight, expected.factors.weight)
    with pytest.raises(ValueError, match="expected eigenvalues in the same bases, found two"):
        whole.merge(
            curvature.kronecker_factors(case.model, case.variables, case.data(rows=slice(3)))
        )
    plain = [dataclasses.replace(f, eigenvalues=None) for f in (whole, part)]
    alone = curvature.kronecker_factors(
        case.model, case.variables, case.data(rows=slice(2, None)), eigenvalues=False
    )
    close(plain[0].without(plain[1]).spectrum, alone.spectrum)


def close(found, expected, **tolerance):
    tolerance = tolerance or {"rtol": 1e-9, "atol": 1e-11}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_do_not_matter(batch_size):
    case, whole = case_of("convolution"), found_of("convolution", "model")
    found = curvature.kronecker_factors(
        case.model, case.variables, case.data(batch_size), like=whole
    )
    close(found.factors.sum, whole.factors.sum)
    close(found.eigenvalues.sum, whole.eigenvalues.sum)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_meshes_do_not_matter(kind):
    case, whole = case_of("convolution"), found_of("convolution", "model")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    data = mu.shard(case.data(), mesh)
    found = curvature.kronecker_factors(case.model, case.variables, data, like=whole)
    close(found.factors.sum, whole.factors.sum)
    close(found.eigenvalues.sum, whole.eigenvalues.sum)
    solved = found.inverse(0.1)(params(case))
    close(solved, whole.inverse(0.1)(params(case)))


@pytest.mark.slow
def test_divided_parameters_and_lists_of_batches_do_not_matter():
    case, whole = case_of("convolution"), found_of("convolution", "model")
    mesh = jax.make_mesh((1, 2), ("data", "fsdp"), devices=jax.devices()[:2])
    variables = mu.shard_params(case.variables, mesh, axis="fsdp", smallest=1)
    data = mu.shard(case.data(), mesh, axis=("data", "fsdp"))
    layers = curvature.kronecker_layers(case.model, case.variables, list(case.data()))
    assert layers == whole.layers
    found = curvature.kronecker_factors(case.model, variables, data, like=whole)
    listed = curvature.kronecker_factors(case.model, case.variables, list(case.data()), like=whole)
    for own in (found, listed):
        close(own.factors.sum, whole.factors.sum)
        close(own.eigenvalues.sum, whole.eigenvalues.sum)
    close(found.inverse(0.1)(variables.params), whole.inverse(0.1)(params(case)))


@pytest.mark.slow
def test_labels_are_drawn_from_the_model():
    """The mean over many draws is what is expected."""
    case = case_of("dense")
    copies = 400
    row = case.inputs[:1]
    data = mu.batches(np.repeat(row, copies, 0), np.zeros(copies, int), batch_size=100)
    layers = curvature.kronecker_layers(case.model, case.variables, data)
    drawn, expected = (
        mu.collect(curvature.kfac(case.model, layers, labels=labels), case.variables, data)
        for labels in ("model", "expected")
    )
    found, wanted = (acc.sum["layers"]["second"].outputs[0] / copies for acc in (drawn, expected))
    np.testing.assert_allclose(found, wanted, atol=0.06)
    assert not np.allclose(found, wanted, atol=1e-6)


def test_padding_is_in_no_sum_and_no_count():
    rows, length, width = 3, 5, 4
    x = np.random.default_rng(0).normal(size=(rows, length, width))
    real = np.arange(length) < np.array([5, 2, 3])[:, None]

    def predict(p, state, inputs):
        hidden = jnp.tanh(inputs["x"] @ p["w"])
        return (hidden * inputs["real"][..., None]).sum(1) @ p["head"]

    model = mu.from_function(predict, mu.losses.cross_entropy)
    variables = mu.Variables({"w": jnp.ones((4, 3)) / 3, "head": jnp.eye(3)})
    data = mu.batches({"x": x, "real": real * 1.0}, np.arange(rows), batch_size=2)
    layers = curvature.kronecker_layers(model, variables, data)
    kfac = curvature.kfac(model, layers, real=real_positions)
    own = mu.collect(kfac, variables, data).sum["layers"]["w"]
    kept = x[real]
    np.testing.assert_allclose(own.inputs[0], kept.T @ kept, **CLOSE)
    np.testing.assert_allclose(own.positions, real.sum(), **CLOSE)


def token_predictor(p, state, inputs):
    hidden = jnp.tanh(p["embed"][inputs.tokens] @ p["w"] + p["b"])
    return hidden @ p["head"]


@pytest.mark.slow
def test_draws_of_tokens_have_the_curvature_of_the_loss_on_average():
    """Rows of different lengths, each many times: the diagonal in the bases is that of C."""
    rng, words, copies, length = np.random.default_rng(0), 4, 600, 5
    tokens, lengths = rng.integers(0, words, (2, length)), np.array([5, 3])
    real = (np.arange(length) < lengths[:, None]).astype(np.int32)
    each = [np.repeat(x, copies, 0) for x in (tokens, real)]
    inputs = mu.data.Tokens(each[0], np.tile(np.arange(length), (2 * copies, 1)), each[1])
    targets = mu.data.TokenTargets(each[0], each[1].astype(np.float32))
    data = mu.batches(inputs, targets, batch_size=2 * copies)
    params = {
        "embed": jnp.asarray(rng.normal(size=(words, 3))),
        "w": jnp.asarray(rng.normal(size=(3, 3))),
        "b": jnp.asarray(rng.normal(size=3)),
        "head": jnp.asarray(rng.normal(size=(3, words))),
    }
    model = mu.from_function(token_predictor, mu.token_losses.TokenCrossEntropy())
    variables = mu.Variables(params)
    found = curvature.kronecker_factors(model, variables, data)
    assert found.layers.blocks["embed"] == "diagonal"
    own = found.factors.sum["layers"]["w"]
    np.testing.assert_allclose(own.positions, copies * real.sum(), **CLOSE)
    flat = jax.flatten_util.ravel_pytree
    matrix, exact = matrix_of(found, params), gauss_newton(model, variables, data)
    (basis,) = [b for b, x in zip(found.bases, found.layers.layers) if x.bias is not None]
    for unit in np.eye(4)[:2]:
        kernel = basis.inputs[0] @ unit[:, None] @ np.eye(3)[:1] @ basis.outputs[0].T
        tree = jax.tree.map(jnp.zeros_like, params) | {"w": kernel[:3], "b": kernel[3]}
        vector = flat(tree)[0]
        np.testing.assert_allclose(vector @ matrix @ vector, vector @ exact @ vector, rtol=0.1)
    embedding = slice(3, 3 + words * 3)  # behind b, in the order of names
    np.testing.assert_allclose(
        np.diag(matrix)[embedding].sum(), np.diag(exact)[embedding].sum(), rtol=0.1
    )


def real_positions(batch):
    return batch.inputs["real"]


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        return nn.Dense(CLASSES)(x.mean(1))


@pytest.mark.slow
def test_layers_of_several_axes_and_their_biases():
    x = np.random.default_rng(0).normal(size=(4, 3, 4))
    model = mu.from_linen(Attention(), mu.losses.cross_entropy)
    variables = Attention().init(jax.random.key(0), x[:1])
    data = mu.batches(x, np.arange(4) % 3, batch_size=2)
    found = curvature.kronecker_factors(model, variables, data, labels="data")
    words = found.layers.blocks
    query = "MultiHeadDotProductAttention_0/query"
    assert words[f"{query}/bias"] == f"with {query}/kernel"
    assert words["LayerNorm_0/bias"] == words["LayerNorm_0/scale"] == "diagonal"
    total = sum(float(values.sum()) for values in (*found.spectrum, *found.inverse(1.0).diagonal))
    squares = mu.collect(mu.statistics.importance(model), variables, data).value
    expected = sum(float(x.sum()) for x in jax.tree.leaves(squares))
    np.testing.assert_allclose(total, expected, rtol=1e-6)  # the trace, in any basis


def test_vectors_and_factors_of_others_are_refused():
    case, found = case_of("dense"), found_of("dense")
    other = mu.Variables(jax.tree.map(lambda x: x + 1, params(case)))
    with pytest.raises(ValueError, match="expected a statistic of these variables"):
        found.check(other.params)
    with pytest.raises(ValueError, match="expected the parameters that the layers were found in"):
        found.inverse(0.1)({"first": jnp.ones(2)})
    with pytest.raises(ValueError, match="expected a statistic of these variables"):
        found.merge(
            curvature.kronecker_factors(
                case.model, other, case.data(), labels="expected", like=found
            )
        )
    with pytest.raises(ValueError, match="many times, found an iterator: give"):
        curvature.kronecker_factors(case.model, case.variables, iter(case.data()))
    with pytest.raises(ValueError, match=r"expected damping >= 0, found -1: give"):
        found.inverse(-1.0)


def test_models_without_layers_and_unknown_labels_are_refused():
    model = mu.from_function(lambda w, state, x: x * w, mu.losses.squared_error)
    data = mu.batches(np.ones((2, 3)), np.ones((2, 3)), batch_size=2)
    with pytest.raises(ValueError, match="expected a model with a dense or convolution layer"):
        curvature.kronecker_layers(model, mu.Variables(jnp.ones(3)), data)
    case = case_of("dense")
    layers = found_of("dense").layers
    with pytest.raises(ValueError, match="expected labels among model, expected, data, found 'x'"):
        curvature.kfac(case.model, layers, labels="x")


def test_a_loss_without_curvature_is_refused():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.absolute_error)
    data = mu.batches(np.ones((2, 3)), np.ones(2), batch_size=2)
    with pytest.raises(ValueError, match="expected a loss with curvature in the outputs"):
        curvature.kronecker_factors(model, mu.Variables(jnp.ones((3, 1))), data)
