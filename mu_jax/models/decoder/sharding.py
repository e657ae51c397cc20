"""How the parameters of a decoder are divided over a mesh."""

from __future__ import annotations

from jax.sharding import PartitionSpec

from mu_jax.data.axes import Axis
from mu_jax.mesh.params import Rules

_INTO = "attention/(query|key|value)|mlp/(gate|up)"  # [d, more]: what comes out is divided
_OUT = "attention/out|mlp/down"  # [more, d]: what goes in is divided


def sharding_rules(axis: Axis | None = "fsdp", tensor: Axis | None = None) -> Rules:
    """Rules of decoders for `mu.param_shardings`, `mu.shard_params` and `read_decoder`.

    Every matrix has one side of the model's width d and another side: heads, the perceptron's
    hidden units or the vocabulary. The width is divided over `axis`, whose devices gather a matrix
    when a block needs it; the other side over `tensor`, whose devices each compute their own part.
    So the table of embeddings [V, d] and the head [d, V] are divided over the width like everything
    else, where a rule by the largest dimension would divide the vocabulary: a lookup then reads its
    rows where they lie. Norms and offsets lie whole.

    | parameter | divided |
    |---|---|
    | `embedding` [V, d] | `P(tensor, axis)` |
    | `head`, `query`, `key`, `value`, `gate`, `up` [d, m] | `P(axis, tensor)` |
    | `out`, `down` [m, d] | `P(tensor, axis)` |

    Stacked blocks have an axis of layers in front, which is not divided. Trees that have parameters
    in them, such as the state of an optimizer, have the same paths and the same rules. Set
    `Decoder.rows` as well (`read_decoder` does), or the compiler may move states in their place.

    Args:
      axis: of the mesh, one or several, over which the width is divided; None: whole.
      tensor: the same, over which heads, hidden units and vocabulary are divided; None: whole.

    Example:
      >>> import jax, mu_jax as mu
      >>> from mu_jax.models import decoder
      >>> mesh = jax.make_mesh((1, jax.device_count()), ("data", "fsdp"))
      >>> tree = {"head": jax.ShapeDtypeStruct((64, 96), "float32")}
      >>> mu.param_shardings(tree, mesh, rules=decoder.sharding_rules())["head"].spec
      P('fsdp', None)
    """
    wide, thin = (axis, tensor), (tensor, axis)
    return [
        (r"(^|/)embedding$", PartitionSpec(*thin)),
        (r"(^|/)head$", PartitionSpec(*wide)),
        (rf"(^|/)blocks/({_INTO})$", PartitionSpec(None, *wide)),
        (rf"(^|/)blocks/({_OUT})$", PartitionSpec(None, *thin)),
        (rf"(^|/)block_\d+/({_INTO})$", PartitionSpec(*wide)),
        (rf"(^|/)block_\d+/({_OUT})$", PartitionSpec(*thin)),
        (r"(^|/)(blocks|block_\d+)/|(^|/)norm$", PartitionSpec()),
    ]
