"""LAF, label-agnostic forgetting: embeddings of what is forgotten become foreign to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import optax

from mu_jax.data.batches import in_memory
from mu_jax.data.checks import check_counts, check_range
from mu_jax.data.forget_retain import mix, readable
from mu_jax.data.partners import whole
from mu_jax.data.rows import shapes_of_rows
from mu_jax.loops.fit import FitInfo, fit, num_steps, with_batch_size
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.phases import Phase, fit_phases
from mu_jax.mesh.shards import bare
from mu_jax.model import Model, Variables, from_function
from mu_jax.objectives import autoencoder
from mu_jax.objectives.autoencoder import Decoder
from mu_jax.objectives.laf import Embedding, alignment, extractor, reconstruction
from mu_jax.statistics.layers import example_inputs, last_layer
from mu_jax.transforms._shared.transform import Unlearn, method, number, passes, report, total

PyTree = Any
Array = jax.Array

_ADAM = optax.adam(1e-3)  # one object, so that every call reuses its compilation
_CODER = from_function(lambda params, state, inputs: inputs, lambda outputs, targets: outputs)


class LAFInfo(NamedTuple):
    """What LAF did.

    Attributes:
      retain_vae, forget_vae: the fits of the two autoencoders.
      extractor, alignment: those of the model, see `mu.FitInfo`; their losses are sums.
    """

    retain_vae: FitInfo
    forget_vae: FitInfo
    extractor: FitInfo
    alignment: FitInfo

    def messages(self) -> list[str]:
        """Sentences on fits that diverged."""
        return [message for part in self for message in part.messages()]


@method
def laf(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    alignment_optimizer: optax.GradientTransformation | None = None,
    vae_optimizer: optax.GradientTransformation = _ADAM,
    embed: str | Callable[[PyTree, PyTree], Array] | None = None,
    epochs: int = 20,
    vae_epochs: int = 10,
    temperature: jax.Array | float = 5.0,
    kl_weight: jax.Array | float = 0.025,
    latent: int = 8,
    widths: Sequence[int] = (128, 32),
    decoder: Decoder = "linear",
    retain_vae_excludes_forget: bool = True,
    retain_rows: int = 1,
    batch_size: int | None = None,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Label-agnostic forgetting: no label of either set is read.

    h is the embedding of an example, h0 that by the original model.

    1. Two variational autoencoders learn h0: s that of the retain set, u that of the forget set,
       `min mean_i (|dec(z_i) - h_i|^2 + 0.025 KL_i)`.
    2. In turn, one step each, on a batch of the forget set beside drawn retained rows:
       * *extractor*: `min sum_r phi(r^s_r) - sum_u phi(r^u_u)` with the squared error
         `r = |dec(enc(h)) - h|^2` and `phi(r) = exp(r / (r + 1))`: embeddings of what is forgotten
         become foreign to their own autoencoder;
       * *alignment*: `min sum_r (c_r - log sum_u exp(c_u / T))` with `c = 1 - cos(h, h0)`.

    The model is in inference mode; what lies behind the embedding has no gradient.

    | published setting | epochs | extractor | alignment | T | z |
    |---|---|---|---|---|---|
    | MNIST, Fashion-MNIST | 20 | Adam 5e-5 | Adam 1e-4 | 5; class and noisy labels 20 | 8 |
    | CIFAR-10, SVHN | 40 | Adam 1e-5 | Adam 4e-5 (class 5e-5) | 20; noisy labels 5 | 16 |

    Args:
      model: any model, of any loss.
      optimizer: of the extractor steps. alignment_optimizer: of the others, with a state of its
        own; default the same kind. Sums are minimized: with another optimizer than Adam the step
        grows with the batch.
      vae_optimizer: of the autoencoders, Adam at 1e-3 as published.
      embed: `(variables, inputs) -> f[B, d]`, a differentiable function, or the name of an
        activation that the model names. Default: the input of the last layer, where the model ends
        with a dense one.
      epochs: passes over the forget set for either kind of steps, 20 as published.
      vae_epochs: passes of each autoencoder over its set, 10 as published.
      temperature: T. kl_weight: weight of KL. Both may be traced.
      latent: z of the code. widths: of the hidden layers of encoder and, reversed, decoder.
      decoder: `linear`; `sigmoid` as in the program, which cannot reach embeddings outside [0, 1].
      retain_vae_excludes_forget: False trains the first autoencoder on all rows, as the program.
      retain_rows: retained rows drawn for each row to forget.
      batch_size: rows to forget in a step, and rows in one of the autoencoders; default those of
        the sets.
      gradients: how to take the gradient of the steps of the model, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key initializes the
      autoencoders, draws and shuffles; `info.details` is a `LAFInfo`.

    Raises:
      ValueError: no embedding: a model that does not end with a dense layer, an activation that the
        model does not name; an unknown decoder.

    Cost: `vae_epochs` forward passes over both sets; `epochs` passes over the forget set and as
    many retained rows, each with four forward and two backward passes; memory of a second set of
    variables, and of the retain set.

    It fails where reconstruction errors are large: phi is then flat, its slope `1 / (r + 1)^2`, and
    Adam alone decides the length of a step.

    Differences from the reference program (`ShaofeiShen768/LAF`):
      1. `decoder="linear"`; there a sigmoid (`decoder="sigmoid"`).
      2. The autoencoder of the retain set does not see the forget set; there it is trained on all
         rows (`retain_vae_excludes_forget=False`).
      3. Retained rows are drawn for the rows to forget; there two loaders run side by side, up to
         the end of the shorter. The two kinds of steps draw batches of their own.
      4. Inference mode is chosen; there it is left over from an evaluation.
      5. The optional steps with labels behind it are `mu.finetune` in a chain.

    References:
      S. Shen, C. Zhang, Y. Zhao, A. Bialkowski, W. Chen, M. Xu. Label-Agnostic Forgetting: A
      Supervision-Free Unlearning in Deep Models. ICLR 2024.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(
      ...     lambda p, state, x: jnp.tanh(x @ p["hidden"]) @ p["head"], mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(4), jnp.arange(4), batch_size=4)
      >>> unlearn = mu.laf(
      ...     model, optax.adam(0.1), epochs=140, temperature=1.0, latent=2, widths=(8, 4))
      >>> start = mu.Variables({"hidden": 2 * jnp.eye(4), "head": 4 * jnp.eye(4)})
      >>> unlearned, _ = unlearn(jax.random.key(0), start, *mu.split(data, [0]))
      >>> model.apply(unlearned, data.inputs).argmax(1).tolist()[1:]
      [1, 2, 3]
      >>> bool(model.losses(unlearned, data.at(0))[0] > 1)
      True
    """
    check_range(1e-6, temperature=temperature)
    check_range(kl_weight=kl_weight)
    check_counts(1, latent=latent, **{f"widths[{k}]": width for k, width in enumerate(widths)})
    if decoder not in ("linear", "sigmoid"):
        raise ValueError(f"expected a decoder 'linear' or 'sigmoid', found {decoder!r}: choose one")
    coder = (latent, tuple(widths), decoder)

    def unlearn(key: Array, variables: PyTree, forget: Any, retain: Any):
        sets = forget, retain
        forget, retain = readable(*sets)
        embedding = Embedding(model, _source(model, embed, variables, forget))
        keys = [jax.random.fold_in(key, number) for number in range(3)]
        known = retain if retain_vae_excludes_forget else mix(forget, retain)
        options = {"optimizer": vae_optimizer, "epochs": vae_epochs, "batch_size": batch_size}
        given = {"original": variables, "kl_weight": number(kl_weight, float)}
        vaes = [
            _autoencoder(own, embedding, coder, data, given, options)
            for own, data in zip(keys, (known, forget))
        ]
        frozen = {
            "retain": whole(in_memory(retain)),
            "original": variables,
            "retain_vae": vaes[0][0],
            "forget_vae": vaes[1][0],
            "temperature": number(temperature, float),
        }
        options = {"steps": 1, "batch_size": batch_size, "frozen": frozen, "gradients": gradients}
        away = extractor(embedding, decoder, retain_rows)
        other = optimizer if alignment_optimizer is None else alignment_optimizer
        state, info = fit_phases(
            model,
            [
                Phase(away, optimizer, forget, **options),
                Phase(alignment(embedding, retain_rows), other, forget, **options),
            ],
            variables,
            key=keys[2],
            cycles=num_steps(with_batch_size(forget, batch_size), epochs),
        )
        coded = [fitted for _, fitted in vaes]
        read = [(1 + retain_rows) * each.examples for each in info.fits]
        return report(
            model,
            variables,
            state.variables,
            sets,
            steps=total(state.steps),
            example_passes=passes(*(each.examples for each in coded), *read),
            details=LAFInfo(*coded, *info.fits),
        )

    return unlearn


def _source(model: Model, embed: Any, variables: PyTree, forget: Any) -> Any:
    return last_layer(model, variables, example_inputs(forget)) if embed is None else embed


def _autoencoder(
    key: Array,
    embedding: Embedding,
    coder: tuple[int, tuple[int, ...], Decoder],
    data: Any,
    frozen: dict[str, PyTree],
    options: dict[str, Any],
) -> tuple[PyTree, FitInfo]:
    """The parameters of an autoencoder of the embeddings of a set, and its fit."""
    latent, widths, decoder = coder
    row = shapes_of_rows(example_inputs(data), 1)
    size = jax.eval_shape(embedding, bare(frozen["original"]), row).shape[1]
    start = autoencoder.init(jax.random.fold_in(key, 0), size, latent, widths)
    state, info = fit(
        _CODER,
        reconstruction(embedding, decoder),
        variables=Variables(start),
        batches=data,
        key=jax.random.fold_in(key, 1),
        frozen=frozen,
        **options,
    )
    return state.variables.params, info
