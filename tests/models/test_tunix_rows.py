"""tunix and qwix as hosts: whole models, adapters alone, and quantized bases."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.models import TunixRows
from mu_jax.models import decoder as decoders

KEY = jax.random.key(0)
SIZES = {"vocab": 32, "width": 16, "hidden": 32, "heads": 4, "head": 8, "kv": 2, "depth": 2}


# --- without tunix: what is refused ---


def pretended(family, **config):
    """A module of the name that tunix gives an architecture."""
    kind = type("Host", (nnx.Module,), {"__module__": f"tunix.models.{family}.model"})
    made = kind()
    made.config = types.SimpleNamespace(**config)
    return made


REFUSED = {
    "expected a llama3 of tunix .* found theta 500000": ("llama3", {"rope_theta": 500_000}),
    "expected a qwen3 of tunix .* found theta 5e.06": ("qwen3", {"rope_theta": 5_000_000}),
    "found stretched rotations": (
        "llama3",
        {"rope_theta": 1_000_000, "rope_scaling": {"factor": 8.0}},
    ),
    "expected use_flash_attention=False": (
        "qwen2",
        {"rope_theta": 10_000, "use_flash_attention": True},
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_tunix_computes_otherwise_is_refused_in_one_sentence(says):
    family, config = REFUSED[says]
    with pytest.raises(ValueError, match=says) as error:
        TunixRows(pretended(family, **config))
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("family", ["llama3", "qwen3", "qwen2"])
def test_what_it_computes_as_it_says_is_taken(family):
    theta = 10_000 if family == "qwen2" else 1_000_000
    assert TunixRows(pretended(family, rope_theta=theta)).decoder.config.rope_theta == theta


# --- with tunix ---


def with_noise(module):
    """The module with every number moved: tunix starts perceptrons at zero, and norms at one."""
    state = nnx.state(module, nnx.Param)
    leaves, structure = jax.tree.flatten(state)
    drawn = [
        x + 0.1 * jax.random.normal(jax.random.fold_in(KEY, k), x.shape, x.dtype)
        for k, x in enumerate(leaves)
    ]
    nnx.update(module, jax.tree.unflatten(structure, drawn))
    return module


def host(family, theta=1_000_000):
    """A tiny decoder of tunix."""
    pytest.importorskip("tunix")
    module = __import__(f"tunix.models.{family}.model", fromlist=["model"])
    config = module.ModelConfig(
        num_layers=SIZES["depth"],
        vocab_size=SIZES["vocab"],
        embed_dim=SIZES["width"],
        hidden_dim=SIZES["hidden"],
        num_heads=SIZES["heads"],
        head_dim=SIZES["head"],
        num_kv_heads=SIZES["kv"],
        rope_theta=theta,
        norm_eps=1e-5,
    )
    kind = {"qwen2": "Qwen2", "llama3": "Llama3", "qwen3": "Qwen3"}[family]
    return with_noise(getattr(module, kind)(config, rngs=nnx.Rngs(0)))


def own(family, decoder, theta):
    """The decoder of the house with the weights of the host."""
    config = decoders.DecoderConfig(
        {"llama3": "llama"}.get(family, family),
        vocab_size=SIZES["vocab"],
        width=SIZES["width"],
        depth=SIZES["depth"],
        num_heads=SIZES["heads"],
        num_kv_heads=SIZES["kv"],
        head_dim=SIZES["head"],
        mlp_width=SIZES["hidden"],
        max_positions=64,
        rope_theta=theta,
        norm_eps=1e-5,
    )

    def value(x):
        return jnp.asarray(x[...])

    def block(layer):
        attention, width = layer.attn, SIZES["width"]
        kv = value(attention.kv_proj.w) if hasattr(attention, "kv_proj") else None
        key, from_ = (
            (kv[0], kv[1])
            if kv is not None
            else (value(attention.k_proj.w), value(attention.v_proj.w))
        )
        found = {
            "query": value(attention.q_proj.w).reshape(width, -1),
            "key": key.reshape(width, -1),
            "value": from_.reshape(width, -1),
            "out": value(attention.o_proj.w).reshape(-1, width),
        }
        for name, short in (("query", "q"), ("key", "k"), ("value", "v")):
            if hasattr(attention, f"{short}_bias"):
                found[f"{name}_bias"] = value(getattr(attention, f"{short}_bias")).reshape(-1)
        if hasattr(attention, "q_norm"):
            found |= {
                f"{n}_norm": value(getattr(attention, f"{n[0]}_norm").w) for n in ("query", "key")
            }
        mlp = {n: value(getattr(layer.mlp, f"{n}_proj").kernel) for n in ("gate", "up", "down")}
        norms = layer.input_layernorm.w, layer.post_attention_layernorm.w
        return {
            "attention": found,
            "mlp": mlp,
            "attention_norm": value(norms[0]),
            "mlp_norm": value(norms[1]),
        }

    params = {f"block_{k}": block(layer) for k, layer in enumerate(decoder.layers)}
    params |= {
        "embedding": value(decoder.embedder.input_embedding),
        "norm": value(decoder.final_norm.w),
        "head": value(decoder.lm_head.w),
    }
    return decoders.Decoder(config), params


def rows():
    """Packed and padded rows."""
    tokens = np.random.default_rng(0).integers(1, SIZES["vocab"], size=(6, 8))
    segment = np.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 3 + [[0, 0, 1, 1, 1, 1, 1, 1]] * 3)
    position = np.array([[0, 1, 2, 0, 1, 2, 3, 0]] * 3 + [[0, 0, 0, 1, 2, 3, 4, 5]] * 3)
    return Tokens(*(jnp.array(x, jnp.int32) for x in (tokens, position, segment)))


def sets():
    inputs = rows()
    mask = ((inputs.segment != 0) & (inputs.position > 0)).astype(np.float32)
    return mu.split(mu.batches(inputs, TokenTargets(inputs.tokens, mask), batch_size=2), [0, 3])


LOSS = mu.token_losses.TokenCrossEntropy()


@pytest.mark.parametrize(
    ("family", "theta"), [("qwen2", 10_000), ("llama3", 1_000_000), ("qwen3", 1_000_000)]
)
def test_logits_are_those_of_the_decoder_of_the_house(family, theta):
    decoder = host(family, theta)
    wrapped = TunixRows(decoder)
    model, inputs = mu.from_nnx(wrapped, LOSS), rows()
    found = jax.nn.log_softmax(model.apply(nnx.state(wrapped), inputs))
    here, params = own(family, decoder, theta)
    wanted = jax.nn.log_softmax(here.logits(params, inputs))
    real = np.asarray(inputs.segment) != 0
    np.testing.assert_allclose(found[real], wanted[real], atol=1e-4)


def test_the_whole_host_is_unlearned_and_put_back():
    wrapped = TunixRows(host("qwen2"))
    model, before = mu.from_nnx(wrapped, LOSS), jax.tree.map(jnp.copy, nnx.state(wrapped))
    forget, retain = sets()
    unlearn = mu.npo(model, optax.adam(1e-2), recipe=mu.PairingRecipe(epochs=5))
    after, info = jax.jit(unlearn)(KEY, before, forget, retain)
    assert info.edit.finite and info.edit.changed > 0.5  # embeddings of unread tokens stay
    batch = forget.at(0)
    assert (model.losses(after, batch) > model.losses(before, batch)).all()
    nnx.update(wrapped, after)
    np.testing.assert_array_equal(wrapped(*batch.inputs), model.apply(after, batch.inputs))


def adapted_host(family, modules, **provider):
    qwix = pytest.importorskip("qwix")
    decoder = host(family)
    lora = qwix.LoraProvider(module_path=f".*({modules})", rank=2, alpha=4.0, **provider)
    return qwix.apply_lora_to_model(decoder, lora, rngs=nnx.Rngs(1), **decoder.get_model_input())


def names(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {mu.model.path_name(path): np.asarray(leaf) for path, leaf in leaves}


ALL, MLP = "q_proj|v_proj|gate_proj|up_proj|down_proj", "gate_proj|up_proj|down_proj"
BASES = {
    "float32": ("qwen2", ALL, {}),
    "int8": ("llama3", ALL, {"weight_qtype": "int8"}),
    "nf4": ("llama3", ALL, {"weight_qtype": "nf4", "tile_size": 8}),
    # qwix 0.1.8 cannot quantize the other layers of this one in tunix 0.1.7, which cast kernels.
    "int8 perceptrons": ("qwen2", MLP, {"weight_qtype": "int8"}),
}


@pytest.mark.parametrize("base", BASES)
def test_adapters_of_qwix_alone_are_trained_on_any_base(base):
    family, modules, provider = BASES[base]
    wrapped = TunixRows(adapted_host(family, modules, **provider))
    model = mu.from_nnx(wrapped, LOSS, trainable=nnx.LoRAParam)
    before = jax.tree.map(jnp.copy, nnx.state(wrapped))
    trained = set(names(model.params(before)))
    assert trained and all("lora" in name for name in trained)
    forget, retain = sets()
    recipe = mu.PairingRecipe("kl", epochs=5)
    after, info = jax.jit(mu.npo(model, optax.adam(3e-2), recipe=recipe))(
        KEY, before, forget, retain
    )
    assert info.edit.finite
    old, new = names(before), names(after)
    moved = {name for name in old if not np.array_equal(old[name], new[name])}
    assert moved == trained
    types_ = {x.dtype.name for x in old.values()}
    assert not provider or types_ & {"int8", "int4", "uint4"}, types_
    batch = forget.at(0)
    assert (model.losses(after, batch) > model.losses(before, batch)).all()


def test_a_host_with_adapters_is_refused_as_without_them():
    qwix = pytest.importorskip("qwix")
    decoder = host("llama3", theta=500_000)
    lora = qwix.LoraProvider(module_path=".*q_proj", rank=2, alpha=4.0)
    adapted = qwix.apply_lora_to_model(decoder, lora, rngs=nnx.Rngs(1), **decoder.get_model_input())
    with pytest.raises(ValueError, match="found theta 500000"):
        TunixRows(adapted)
