"""WHP (suppression, not removal): logits without what a model that knows more would raise."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mu_jax.data.checks import check_range


@functools.partial(jax.tree_util.register_dataclass, data_fields=["alpha"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class whp:
    """Who's Harry Potter, at decoding: `v = v_base - alpha relu(v_over - v_base)`.

    *Suppression, not removal*: no weight changes. The base model knows all it knew, whoever decodes
    without this has it back, and two models are read at every token. `v_over` are the logits of the
    model, fine-tuned further on the forget set until it overfits (`mu.fit` of `mu.supervised`): the
    tokens that it raises above the base are those of the forget set, and these are lowered.

    A small alpha leaves greedy texts as they are; a large one lowers words that every text needs.
    Tokens lowered far below those of a model that never saw the forget set tell it apart.

    Args:
      alpha: strength, may be traced; 4 (news) and 256 (books) in the benchmark MUSE, which chose by
        retained knowledge.

    Returns:
      `(base, over) -> logits` of one shape [..., V], float32 at least: `logits_transform=` of
      `mu.models.decoder.decode`, with the parameters of the further model as `also=[over]`; or of
      logits [B, T, V], for losses and metrics.

    Raises:
      ValueError: logits of two shapes.

    Cost: at decoding, the passes of two models; memory of two sets of parameters. Another alpha
    compiles nothing.

    Differences from the reference program (`muse_bench`):
      1. In float32 at least; there in the type of the models.
      The paper writes an interpolation of probabilities without the relu.

    References:
      R. Eldan, M. Russinovich. Who's Harry Potter? Approximate Unlearning in LLMs. 2023.
      W. Shi, J. Lee, Y. Huang, S. Malladi, J. Zhao, A. Holtzman, D. Liu, L. Zettlemoyer,
      N. A. Smith, C. Zhang. MUSE: Machine Unlearning Six-Way Evaluation for Language Models.
      ICLR 2025.

    Example:
      >>> base, over = jnp.array([2.0, 1.0, 0.0]), jnp.array([2.5, 0.0, 0.0])
      >>> whp(4.0)(base, over).tolist()  # the first token is what the over-trained model raises
      [0.0, 1.0, 0.0]
    """

    alpha: jax.Array | float

    def __post_init__(self) -> None:
        if isinstance(self.alpha, int | float):
            check_range(0, alpha=self.alpha)

    def __call__(self, base: jax.Array, over: jax.Array) -> jax.Array:
        """The logits to decode by."""
        if base.shape != over.shape:
            raise ValueError(
                f"expected logits of one shape from both models, found {base.shape} and "
                f"{over.shape}: give models of one vocabulary the same rows"
            )
        kind = jnp.promote_types(jnp.result_type(base, over), jnp.float32)
        base, over = base.astype(kind), over.astype(kind)
        return base - jnp.asarray(self.alpha, kind) * jax.nn.relu(over - base)
