"""Decoders of the Llama family as pure functions of their parameters."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from mu_jax._tracing import cached
from mu_jax.data.axes import keep_rows
from mu_jax.data.tokens import Tokens
from mu_jax.mesh.shards import by_rows
from mu_jax.model import Loss, Model, Variables, from_function
from mu_jax.models.decoder._checks import checked
from mu_jax.models.decoder.blocks import Sight, block, rms_norm, rotation, sight
from mu_jax.models.decoder.config import DecoderConfig
from mu_jax.models.decoder.layout import Leaf, build
from mu_jax.projected import Projected

Array = jax.Array
PyTree = Any
Transform = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A decoder of the Llama family: Llama 2 and 3, Mistral, Qwen 2.5 and Qwen 3.

    `h_0 = E[tokens]`, `h_(i+1) = block_i(h_i)`, `logits = norm(h_L) head`: pre-norm blocks of
    grouped-query attention with rotated queries and keys and of a gated perceptron, as in `blocks`.
    Logits `[:, t]` predict the token at `t + 1`.

    Rows are `Tokens(tokens, position, segment)`. A token sees the earlier positions of its own
    segment alone, so packed documents give what each gives alone, and what stands in padding
    (segment 0), on whichever side, changes nothing. An array [B, T] is taken as one document a row,
    without padding.

    Parameters are a nested dict, kernels [in, out]: `embedding` [V, d], `block_3/attention/query`,
    `block_3/mlp/down`, `norm`, `head` [d, V] unless it is the table of embeddings; with
    `scan_layers` the blocks are stacked, `blocks/mlp/down` [L, in, out]. A token that is not in the
    vocabulary is refused where it can be seen; inside `jit` its row is NaN.

    Attributes:
      config: sizes and choices.
      scan_layers: stack the blocks and compute them by one `jax.lax.scan`: one block is compiled,
        not L. The numbers are the same.
      remat: compute the activations inside each block again in the backward pass instead of keeping
        them; outputs and gradients stay as they are.
      dtype: type of the computation; None takes that of the parameters. Norms, softmax and logits
        are float32 at least.
      rows: where the rows of batches lie when parameters are divided, such as
        `NamedSharding(mesh, P(("data", "fsdp")))`. States then stay with their rows, and devices
        gather parameters, not states. The numbers are the same.
      chunk: positions of which a loss forms logits at a time, see `model`.

    Differences from transformers:
      1. Logits are float32 whatever the type of the computation, and so are their sums.
      2. Documents are told apart by `segment`, and a window is counted in positions, so that
         padding on the left takes no place in it.
      3. There is no dropout: configs that ask for it are refused.

    Example:
      >>> import jax, mu_jax as mu
      >>> config = mu.models.DecoderConfig(
      ...     "llama", vocab_size=32, width=8, depth=2, num_heads=2, num_kv_heads=1, head_dim=4,
      ...     mlp_width=16, max_positions=64)
      >>> decoder = mu.models.Decoder(config)
      >>> variables = jax.jit(decoder.init)(jax.random.key(0))
      >>> tokens = jax.numpy.array([[3, 1, 4, 1, 5]])
      >>> decoder.logits(variables.params, tokens).shape
      (1, 5, 32)
      >>> decoder.hidden(variables.params, tokens, stop=0).shape
      (1, 5, 8)

    References:
      H. Touvron et al. Llama 2: Open Foundation and Fine-Tuned Chat Models. 2023 (arXiv
      2307.09288). A. Grattafiori et al. The Llama 3 Herd of Models. 2024 (arXiv 2407.21783).
      A. Q. Jiang et al. Mistral 7B. 2023 (arXiv 2310.06825). Qwen Team. Qwen2.5 Technical Report.
      2024 (arXiv 2412.15115); Qwen3 Technical Report. 2025 (arXiv 2505.09388).
    """

    config: DecoderConfig
    scan_layers: bool = False
    remat: bool = False
    dtype: DTypeLike | None = None
    rows: NamedSharding | None = None
    chunk: int = 256

    def init(self, key: Array, *, dtype: DTypeLike = jnp.float32) -> Variables:
        """New variables: normal kernels and embeddings, norms 1, offsets 0.

        Args:
          key: a PRNG key; stacked and unrolled blocks start from the same numbers.
          dtype: of the parameters.
        """
        deviation = self.config.initializer_range

        def one(leaf: Leaf, number: int | Array | None) -> Array:
            if leaf.start != "normal":
                return jnp.full(leaf.shape, float(leaf.start == "ones"), dtype)
            own = jax.random.fold_in(key, zlib.crc32(leaf.path.encode()))
            own = jax.random.fold_in(own, 0 if number is None else number)
            return deviation * jax.random.normal(own, leaf.shape, dtype)

        def stacked(leaf: Leaf) -> Array:
            return jax.vmap(lambda number: one(leaf, number))(jnp.arange(self.config.depth))

        return Variables(build(self.config, scan_layers=self.scan_layers, one=one, stacked=stacked))

    def hidden(
        self,
        params: PyTree,
        tokens: Tokens | Array,
        *,
        stop: int | None = None,
        embedding_transform: Transform | None = None,
    ) -> Array:
        """Hidden states [B, T, d].

        Args:
          params: the parameters, `variables.params`.
          tokens: rows of tokens.
          stop: number of the last block that is computed; the result is its output, and no block
            behind it is run. None: the states behind all blocks and the last norm, which `head`
            takes.
          embedding_transform: `[B, T, d] -> [B, T, d]`, applied to the embeddings.

        Raises:
          ValueError: parameters of another form, rows longer than `max_positions`, and, where they
            can be seen, tokens outside the vocabulary and positions beyond the model's.
          IndexError: no such block.
        """
        depth = self.config.depth
        if stop is not None and not 0 <= stop < depth:
            raise IndexError(f"expected stop from 0 to {depth - 1}, found {stop}")
        tokens = checked(self, params, tokens)

        def compute(params: PyTree, tokens: Tokens) -> Array:
            n_blocks = depth if stop is None else stop + 1
            x, _ = self._states(params, tokens, n_blocks, embedding_transform)
            return self._normed(params, x) if stop is None else x

        return by_rows(compute, params, tokens, rows=tokens.tokens[:, 0])

    def head(self, params: PyTree, hidden: Array) -> Array:
        """Logits [..., V], in float32 at least, of hidden states [..., d] behind the last norm.

        A loss over long rows calls it on a piece of a row at a time, so that the logits of all
        never exist.
        """
        wide = jnp.promote_types(hidden.dtype, jnp.float32)
        tied = self.config.tied_head
        form = "...d,vd->...v" if tied else "...d,dv->...v"

        def compute(kernel: Array, hidden: Array) -> Array:
            kernel = kernel.astype(hidden.dtype)
            logits = jnp.einsum(form, hidden, kernel, preferred_element_type=wide)
            return keep_rows(logits, self.rows, free=True)

        kernel = params["embedding" if tied else "head"]
        return by_rows(compute, kernel, hidden, rows=hidden[..., 0])

    def logits(
        self,
        params: PyTree,
        tokens: Tokens | Array,
        *,
        embedding_transform: Transform | None = None,
    ) -> Array:
        """Logits [B, T, V] in float32 at least: `head(params, hidden(params, tokens))`."""
        hidden = self.hidden(params, tokens, embedding_transform=embedding_transform)
        return self.head(params, hidden)

    def model(
        self, loss: Loss, *, head: bool = True, embedding_transform: Transform | None = None
    ) -> Model:
        """A `mu.Model` whose inputs are `Tokens` and whose outputs are logits [B, T, V].

        With the loss `mu.token_losses.TokenCrossEntropy()` losses, mean gradients and language
        methods form the logits of `chunk` positions at a time, and those of whole rows never exist.
        Exact importance holds their gradients for the rows of one of its chunks.

        Args:
          loss: `(outputs, targets) -> f32[B]`.
          head: False leaves off the head: outputs are the hidden states [B, T, d] that `head`
            takes, for a loss that never forms logits [B, T, V].
          embedding_transform: see `hidden`.

        Returns:
          A `Model` of `mu.Variables(params)`; it observes the outputs of all blocks, `block_3`.
          Equal arguments give the same model, so that nothing is compiled again.
        """
        return _model(self, loss, head, embedding_transform)

    def observe(
        self,
        params: PyTree,
        tokens: Tokens | Array,
        *,
        embedding_transform: Transform | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """Hidden states behind the last norm, and the output [B, T, d] of each block by name."""
        tokens, depth = checked(self, params, tokens), self.config.depth

        def compute(params: PyTree, tokens: Tokens) -> tuple[Array, dict[str, Array]]:
            x, each = self._states(params, tokens, depth, embedding_transform, keep=True)
            return self._normed(params, x), {f"block_{k}": y for k, y in enumerate(each)}

        return by_rows(compute, params, tokens, rows=tokens.tokens[:, 0])

    def embed(self, params: PyTree, tokens: Tokens) -> Array:
        """Embeddings [B, T, d] in the type of the computation."""
        table = params["embedding"]
        # Below 0 is as far outside as beyond V, and what stands in padding is nobody's business.
        ids = jnp.where(tokens.tokens < 0, len(table), tokens.tokens)
        ids = jnp.where(tokens.segment == 0, 0, ids)
        found = table.at[ids].get(mode="fill", fill_value=jnp.nan)
        return found if self.dtype is None else found.astype(self.dtype)

    def through(
        self,
        params: PyTree,
        carry: PyTree,
        step: Callable[[PyTree, PyTree, Any, Any], tuple[PyTree, PyTree]],
        n_blocks: int,
    ) -> tuple[PyTree, list | Array]:
        """Take `carry` through the first blocks, by a scan where they are stacked.

        Args:
          params: all parameters.
          carry: what goes from block to block.
          step: `(carry, parameters of the block, its number, whether it has a window) ->
            (carry, what is kept)`.
          n_blocks: how many.

        Returns:
          The last carry, and what was kept, by block.
        """
        sliding = self.config.sliding_layers or (False,) * self.config.depth
        if self.remat:
            loop = self.scan_layers  # which the compiler does not see through
            step = jax.checkpoint(step, static_argnums=self._static(), prevent_cse=not loop)
        if not self.scan_layers:
            kept = []
            for number in range(n_blocks):
                carry, y = step(carry, params[f"block_{number}"], number, sliding[number])
                kept.append(y)
            return carry, kept
        same = len(set(sliding)) == 1

        def turn(carry, slices):
            blocks, number, windowed = slices
            return step(carry, blocks, number, sliding[0] if same else windowed)

        blocks = jax.tree.map(lambda x: x[:n_blocks], params["blocks"])
        numbers, windows = jnp.arange(n_blocks), jnp.array(sliding[:n_blocks])
        return jax.lax.scan(turn, carry, (blocks, numbers, windows))

    def _static(self) -> tuple[int, ...]:
        """Which arguments of a step are Python numbers, not arrays."""
        sliding = self.config.sliding_layers
        mixed = len(set(sliding)) > 1
        return (2, 3) if not self.scan_layers else () if mixed else (3,)

    def _states(
        self,
        params: PyTree,
        tokens: Tokens,
        n_blocks: int,
        embedding_transform: Transform | None,
        *,
        keep: bool = False,
    ) -> tuple[Array, list | Array]:
        config, x = self.config, self.embed(params, tokens)
        x = keep_rows(x if embedding_transform is None else embedding_transform(x), self.rows)
        turn = rotation(config, tokens.position)
        place = (tokens.segment, tokens.position)
        seen = sight(config, place, place)

        def step(x, own, number, windowed):
            x = keep_rows(block(config, own, x, turn, choose(seen, windowed)), self.rows)
            return x, x if keep else None

        return self.through(params, x, step, n_blocks)

    def _normed(self, params: PyTree, x: Array) -> Array:
        return keep_rows(rms_norm(x, params["norm"], self.config.norm_eps), self.rows)


def choose(seen: Sight, windowed: bool | Array) -> Array:
    """Which keys are seen in a layer that has a window or not."""
    if seen.windowed is None:
        return seen.full
    if isinstance(windowed, bool):
        return seen.windowed if windowed else seen.full
    return jnp.where(windowed, seen.windowed, seen.full)


@cached(maxsize=64)
def _model(decoder: Decoder, loss: Loss, head: bool, embedding_transform) -> Model:
    def decoder_outputs(params, state, tokens):
        hidden = decoder.hidden(params, tokens, embedding_transform=embedding_transform)
        return decoder.head(params, hidden) if head else hidden

    def observe(params, state, tokens):
        hidden, found = decoder.observe(params, tokens, embedding_transform=embedding_transform)
        return (decoder.head(params, hidden) if head else hidden), found

    def project(params, state, tokens):
        hidden = decoder.hidden(params, tokens, embedding_transform=embedding_transform)
        name = "embedding" if decoder.config.tied_head else "head"
        return Projected(hidden, {name: params[name]}, _Head(decoder), decoder.chunk)

    return from_function(decoder_outputs, loss, observe=observe, project=project if head else None)


@dataclasses.dataclass(frozen=True)
class _Head:
    """The head alone; equal for equal decoders."""

    decoder: Decoder

    def __call__(self, kernel: PyTree, hidden: Array) -> Array:
        return self.decoder.head(kernel, hidden)


def stack_blocks(params: PyTree) -> PyTree:
    """Parameters with the blocks stacked (`scan_layers=True`), from unrolled ones.

    Example:
      >>> tree = {"norm": jnp.ones(2), **{f"block_{k}": {"up": jnp.ones(3)} for k in range(2)}}
      >>> stack_blocks(tree)["blocks"]["up"].shape
      (2, 3)
    """
    blocks = [params[f"block_{k}"] for k in range(_depth(params))]
    outer = {name: x for name, x in params.items() if not name.startswith("block_")}
    return {**outer, "blocks": jax.tree.map(lambda *x: jnp.stack(x), *blocks)}


def unstack_blocks(params: PyTree) -> PyTree:
    """Parameters with the blocks apart, `block_0`, `block_1`, ..., from stacked ones."""
    outer = {name: x for name, x in params.items() if name != "blocks"}
    depth = len(jax.tree.leaves(params["blocks"])[0])
    apart = {
        f"block_{k}": jax.tree.map(lambda x, k=k: x[k], params["blocks"]) for k in range(depth)
    }
    return {**outer, **apart}


def _depth(params: PyTree) -> int:
    return sum(name.startswith("block_") for name in params)
