"""Products with the curvature of the mean loss against dense matrices, on meshes and streams."""

import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.losses import cross_entropy
from mu_jax.statistics.curvature import curvature_product, curvature_sums

N = 11
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
CURVATURES = ("gauss_newton", "hessian")


def predict(params, state, x):
    del state
    return jnp.tanh(x @ params["in"]) @ params["out"] + params["bias"]


MODEL = mu.from_function(predict, cross_entropy)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def params(seed=0):
    shapes = {"in": (4, 5), "out": (5, 3), "bias": (3,)}
    drawn = {name: normal(seed + len(name), *shape) for name, shape in shapes.items()}
    return jax.device_put(jax.tree.map(lambda x: x.astype(jnp.result_type(float)), drawn))


def data(batch_size=4):
    weight = np.linspace(0, 1.5, N)  # the first row does not count
    return mu.batches(normal(9, N, 4), np.arange(N) % 3, batch_size=batch_size, weight=weight)


def product(curvature, given=None, vector=None, l2=0.0):
    vector = params(5) if vector is None else vector
    given = data() if given is None else given
    start = mu.Variables(params())
    return curvature_product(MODEL, start, given, vector, curvature=curvature, l2=l2)


@functools.partial(jax.jit, static_argnums=0)
def dense(curvature):
    """The matrix, from every entry of the Jacobian and of the Hessian."""
    given, (flat, tree) = data(), ravel_pytree(params())
    weight = given.weight.astype(float)
    share = weight / weight.sum()

    def logits(w):
        return predict(tree(w), (), given.inputs)

    if curvature == "hessian":
        return jax.hessian(lambda w: share @ cross_entropy(logits(w), given.targets))(flat)
    jacobian, p = jax.jacobian(logits)(flat), jax.nn.softmax(logits(flat))
    inner = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(p) * share[:, None, None]
    return jnp.einsum("nkp,nkl,nlq->pq", jacobian, inner, jacobian)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_products_are_those_of_the_dense_matrix(curvature):
    with jax.enable_x64(True):
        found, vector = (ravel_pytree(x)[0] for x in (product(curvature, l2=0.3), params(5)))
        expected = dense(curvature) @ vector + 0.3 * vector
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("batch_size", [1, 5, 11])
def test_the_batch_size_does_not_matter(curvature, batch_size):
    assert_close(product(curvature, data(batch_size)), product(curvature))


@pytest.mark.quick("gauss_newton")
@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_list_of_batches_gives_the_same(curvature):
    assert_close(product(curvature, list(data())), product(curvature))


@pytest.mark.quick("explicit-gauss_newton")
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_gives_the_same(kind, curvature):
    devices = jax.devices()[:4]
    mesh = jax.make_mesh((4,), ("data",), axis_types=(KINDS[kind],), devices=devices)
    assert_close(product(curvature, mu.shard(data(), mesh)), product(curvature))


@pytest.mark.slow
@pytest.mark.parametrize("curvature", CURVATURES)
def test_symmetric_and_linear(curvature):
    u, v = params(5), params(6)

    def dot(a, b):
        return float(ravel_pytree(a)[0] @ ravel_pytree(b)[0])

    of_u, of_v = (product(curvature, vector=x) for x in (u, v))
    np.testing.assert_allclose(dot(u, of_v), dot(of_u, v), rtol=1e-4)
    both = jax.tree.map(lambda a, b: a + 2 * b, u, v)
    assert_close(
        product(curvature, vector=both),
        jax.tree.map(lambda a, b: a + 2 * b, of_u, of_v),
        atol=1e-5,
    )
    if curvature == "gauss_newton":
        assert dot(u, of_u) >= 0


def test_narrow_parameters_are_widened():
    def narrow(tree):
        return jax.tree.map(lambda x: x.astype(jnp.bfloat16), tree)

    start, vector = (mu.Variables(narrow(params()))), narrow(params(5))
    found = curvature_product(MODEL, start, data(), vector)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (start, vector))
    expected = curvature_product(MODEL, wide[0], data(), wide[1])
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert_close(found, expected)


def bytes_of_a_product(curvature, rows):
    """Working memory of the compiled product over `rows` examples, 16 at a time."""

    def shape(*axes, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(axes, dtype)

    inputs, labels = shape(rows, 4), shape(rows, dtype=jnp.int32)
    many = data(16).replace(inputs=inputs, targets=labels, weight=shape(rows), index=labels)

    def run(given, vector):
        return product(curvature, given, vector)

    compiled = jax.jit(run).lower(many, params(5)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.quick("gauss_newton")
@pytest.mark.parametrize("curvature", CURVATURES)
def test_memory_does_not_grow_with_the_number_of_examples(curvature):
    few, many = (bytes_of_a_product(curvature, rows) for rows in (1_000, 100_000))
    assert 0 < few == many


class Counted:
    """Batches that are made when they are asked for, and how many were there at the same time."""

    def __init__(self, batches):
        self.batches, self.alive, self.most = list(batches), [], 0

    def __iter__(self):
        for batch in self.batches:
            inputs = np.array(batch.inputs)
            self.alive = [each for each in self.alive if each() is not None]
            self.alive.append(weakref.ref(inputs))
            self.most = max(self.most, len(self.alive))
            yield batch._replace(inputs=inputs)
            del inputs


@pytest.mark.quick("gauss_newton")
@pytest.mark.parametrize("curvature", CURVATURES)
def test_batches_are_let_go_while_others_are_read(curvature):
    batches = Counted(data(1))
    assert len(batches.batches) == N
    assert_close(product(curvature, batches), product(curvature))
    assert batches.most <= 3


@pytest.mark.parametrize(
    "call",
    [
        functools.partial(product, "fisher"),
        functools.partial(curvature_sums, MODEL, "fisher"),
        functools.partial(product, "hessian", vector={"in": jnp.ones((4, 5))}),
        functools.partial(product, "hessian", vector=params(5) | {"bias": jnp.ones(4)}),
    ],
    ids=["curvature", "curvature of sums", "another tree", "other shapes"],
)
def test_bad_input_is_refused_in_one_sentence(call):
    with pytest.raises(ValueError, match="expected") as error:
        call()
    assert is_one_sentence(str(error.value))
