"""Transforms of transforms: one after another, masked, scaled, through an optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
import optax

from mu_jax import _at_once as at_once
from mu_jax import _words as words
from mu_jax import edits
from mu_jax._tracing import holds_tracer
from mu_jax.data.checks import check_range
from mu_jax.entries import saliency_mask
from mu_jax.freezing import restrict
from mu_jax.loops import lifting
from mu_jax.loops.exact_statistics import exact_statistics
from mu_jax.loops.update_masks import Masks, masks_of
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model
from mu_jax.pruning import alive
from mu_jax.statistics import collect, mean_gradient
from mu_jax.transforms._shared.held import held, zeros_kept
from mu_jax.transforms._shared.transform import Aim, Info, Transform, Unlearn, report, with_effect

PyTree = Any
Refresh = Literal["none", "retain", "retain_sequential"]
AnyTransform = TypeVar("AnyTransform", "Transform", "Chain")


@dataclasses.dataclass(frozen=True)
class Chain:
    """Transforms one after another; `info` is a tuple with one entry for each."""

    members: tuple[Transform, ...]
    watch: bool | None = None

    @property
    def model(self) -> Model:
        """The model of the last member."""
        return self.members[-1].model

    @property
    def words(self) -> str:
        """The members and their hyper-parameters as a call."""
        return f"chain({', '.join(member.words for member in self.members)})"

    @property
    def aim(self) -> Aim:
        """That of the members; "suppression" if any of them suppresses."""
        aims = [member.aim for member in self.members]
        return "suppression" if "suppression" in aims else "removal"

    def __repr__(self) -> str:
        return f"Chain{self.words.removeprefix('chain')}"

    def __call__(
        self, key: jax.Array, variables: PyTree, forget: Any, retain: Any
    ) -> tuple[PyTree, tuple[Info, ...]]:
        """Unlearn with each member in turn, member `i` under `fold_in(key, i)`.

        What a member has pruned stays 0 in those after it, bit for bit.

        The last `info.effect` is that of the whole chain.
        """
        infos, before, masks = [], variables, Masks()
        for number, member in enumerate(self.members):
            member_key = jax.random.fold_in(key, number)
            silent = dataclasses.replace(_keeping(member, masks), watch=False)
            variables, info = silent(member_key, variables, forget, retain)
            infos.append(info)
            masks |= _zeros_kept(member, variables)
        return variables, with_effect(self, before, variables, (forget, retain), tuple(infos))

    def restricted(self, restriction: Callable[[Model], Model]) -> Chain:
        """The chain of restricted members."""
        members = tuple(member.restricted(restriction) for member in self.members)
        return dataclasses.replace(self, members=members)


def chain(*transforms: Transform) -> Chain:
    """One transform after another, each starting from what the last one left.

    What `mu.magnitude_prune` or `mu.synflow_prune` has pruned stays 0 in all members after it, in
    every step of their fits and at their end, weight decay and momentum notwithstanding.

    (`optax.chain` composes within one step, which is something else: a pruning and an SSD chained
    there compute the importances of the unpruned weights.)

    Example:
      >>> import optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> tune = mu.finetune(model, optax.sgd(1e-2))
      >>> len(mu.chain(mu.ssd(model, alpha=2.0), tune).members)
      2
    """
    if not transforms:
        raise ValueError("expected at least one transform to chain, found none: pass some")
    return Chain(transforms)


def watched(transform: AnyTransform, always: bool = True) -> AnyTransform:
    """The transform, with the losses of both sets before and after in its `info`: did it forget?

    `info.effect` holds the losses of every forget and retain example before and after, and whether
    their classes were named; `info.effect.forget.loss` and `.accuracy` are the means. Where the
    weights changed and nothing was forgotten (`mu.evaluation.nothing_forgotten`), `info.messages()`
    says so; a call outside `jit` warns. Of a chain the last `info` has the effect of the whole.

    A transform that is not asked measures where warnings can be seen, outside `jit` and `vmap`, on
    the forget set and as many retained examples; a grid of settings under `vmap` stays as it is.

    Args:
      transform: any transform or chain; array-backed or streamed sets, also under `jit`, `vmap` and
        on a mesh. (An iterable that is no `Stream` is refused: its size is not known.)
      always: True measures both sets whole and everywhere; False measures nothing anywhere.

    Cost: two forward passes over the forget and two over the retain set, which is why it has to be
    asked for: a method with a stored statistic reads the forget set alone. `mu.evaluation.score`
    compares with retrained models, which this cannot.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> forget, retain = mu.split(mu.batches(jnp.eye(4), jnp.zeros(4), batch_size=4), [3])
      >>> unlearn = mu.watched(mu.gradient_ascent(model, optax.sgd(1.0)))
      >>> _, info = jax.jit(unlearn)(
      ...     jax.random.key(0), mu.Variables(jnp.ones(4)), forget, retain)
      >>> info.effect.forget.loss, info.effect.retain.loss
      ((np.float64(1.0), np.float64(9.0)), (np.float64(1.0), np.float64(1.0)))
    """
    return dataclasses.replace(transform, watch=always)


def masked(transform: AnyTransform, trainable: Callable[[str], bool] | PyTree) -> AnyTransform:
    """The transform, allowed to change the chosen leaves, or the chosen entries, only.

    The others are bit-identical afterwards, momentum and weight decay notwithstanding. Leaves that
    are not chosen take no part in statistics, norms or thresholds. Entries that are not chosen are
    held in every step of a fit, and take no part in its gradient and its norm; the statistics of a
    method of one step are of the whole leaf. (`optax.masked` alone passes the updates of unmasked
    leaves through unchanged.)

    Args:
      transform: any transform.
      trainable: `name -> bool` over names such as `Dense_0/kernel`, or a tree of bools shaped like
        the parameters, True where the transform may change a leaf; or such a tree with arrays of
        the shapes of the leaves, True where it may change an entry, as `mu.pruning` makes them.
        Choices of the same leaves are one program, also by functions that are made anew for every
        call.

    Raises:
      ValueError: masks of entries of another tree or of other shapes, when it is called.
    """
    if callable(trainable) or not any(jnp.ndim(leaf) for leaf in jax.tree.leaves(trainable)):
        return transform.restricted(lambda model: restrict(model, trainable))
    return _every(transform, lambda member: _at_entries(member, trainable))


def _at_entries(transform: Transform, mask: PyTree) -> Transform:
    def choose(model: Model, variables: PyTree, forget: Any):
        return masks_of(model.params(variables), mask), 0.0

    return held(transform, choose, f"masked({transform.words}, ...)")


def salient(transform: Transform, fraction: jax.Array | float = 0.5) -> Transform:
    """The transform, allowed to change only the entries that matter most for the forget set.

    `g = mean_i grad l_i` over the forget set, before anything is changed; the given fraction of all
    trained entries may change, those of largest `|g_j|` over all leaves together. The others keep
    every bit, momentum and weight decay notwithstanding. This is the mask of SalUn for any method:
    `mu.salun` is random relabeling under it. It goes together with gradient ascent, fine-tuning,
    boundary methods and influence as well.

    It fails where the forget set is fitted so well that its gradient is rounding noise, which then
    chooses; and with a method of one step that is not entry by entry (`mu.iau` with clipping): the
    method computes as without a mask, and the others are put back.

    Args:
      transform: any single transform. It is not told of the mask: what it computes from the forget
        set is of all entries.
      fraction: share of the entries that may change, 0.5 as published for SalUn; may be traced.

    Returns:
      A `Transform`; `info` is that of the transform, with the passes for the mask.

    Raises:
      TypeError: a chain: choose for its members one by one.
      ValueError: a fraction outside [0, 1], where it can be seen.

    Cost: one forward and backward pass over the forget set, one sort of as many numbers as there
    are weights, and that of the transform; memory of one Boolean for each weight.

    References:
      C. Fan, J. Liu, Y. Zhang, E. Wong, D. Wei, S. Liu. SalUn: Empowering Machine Unlearning via
      Gradient-based Weight Saliency in Both Image Classification and Generation. ICLR 2024.

    Example:
      >>> import optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(3), jnp.ones(3), batch_size=3)
      >>> unlearn = mu.salient(mu.gradient_ascent(model, optax.sgd(1.0)), fraction=1 / 3)
      >>> start = mu.Variables(jnp.array([0.9, 2.0, 3.0]))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, *mu.split(data, [0]))
      >>> (unlearned.params != start.params).tolist()
      [True, False, False]
    """
    if isinstance(transform, Chain):
        raise TypeError(
            "expected a single transform, found a chain: choose the salient entries for its "
            "members one by one"
        )
    check_range(0, 1, fraction=fraction)

    def choose(model: Model, variables: PyTree, forget: Any):
        found = collect(mean_gradient(model), variables, forget)
        mask = saliency_mask(found.value, fraction)
        return masks_of(model.params(variables), mask), found.weight

    return held(transform, choose, words.call("salient", (transform,), {"fraction": fraction}))


def keep_zeros(
    transform: AnyTransform, chosen: Callable[[str], bool] | None = None
) -> AnyTransform:
    """The transform in a model that was pruned before: weights that are 0 stay 0, bit for bit.

    For models whose zeros came from a pruning outside of a chain, such as `mu.pruning.iterative` or
    a file: an entry of a pruned leaf that is 0 counts as pruned.

    Args:
      transform: any transform.
      chosen: names of the leaves that were pruned, as for `mu.magnitude_prune`.

    Example:
      >>> import optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.ones((2, 2)), batch_size=2)
      >>> unlearn = mu.keep_zeros(mu.gradient_ascent(model, optax.sgd(0.5)))
      >>> start = mu.Variables(jnp.array([[0.0, 2.0], [3.0, 0.0]]))
      >>> (unlearn(jax.random.key(0), start, *mu.split(data, [0]))[0].params == 0).tolist()
      [[True, False], [False, True]]
    """

    def choose(model: Model, variables: PyTree, forget: Any):
        return alive(model.params(variables), chosen), 0.0

    return _every(transform, lambda member: held(member, choose, f"keep_zeros({member.words})"))


def _every(transform: AnyTransform, change: Callable[[Transform], Transform]) -> AnyTransform:
    """A transform changed, or every member of a chain."""
    if not isinstance(transform, Chain):
        return change(transform)
    members = tuple(_every(member, change) for member in transform.members)
    return dataclasses.replace(transform, members=members)


def _keeping(transform: AnyTransform, masks: Masks) -> AnyTransform:
    """The transform with zeros that a chain keeps."""
    if not masks:
        return transform
    return _every(transform, lambda member: held(member, lambda *_: (masks, 0.0)))


def _zeros_kept(transform: Transform | Chain, variables: PyTree) -> Masks:
    """Where those after the transform may change the variables that it leaves."""
    if not isinstance(transform, Chain):
        return zeros_kept(transform, variables)
    found = Masks()
    for member in transform.members:
        found |= _zeros_kept(member, variables)
    return found


def scaled(transform: Transform, scale: jax.Array | float) -> Transform:
    """The transform with its change of the parameters multiplied by `scale`, may be traced."""
    return through(transform, optax.stateless(lambda u, _: optax.tree.scale(scale, u)))


def through(transform: Transform, transformation: optax.GradientTransformation) -> Transform:
    """The transform with its change of the parameters sent through an optax transformation.

    `params + transformation(after - before)`: clip the edit by its norm, mask it element by
    element, scale it. For a method that fits, this acts on the whole displacement. Outside `jit`
    transformations of a kind are one program, whatever their numbers.
    """
    _check_single(transform, "send its members through one by one")

    def method(model: Model) -> Unlearn:
        def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
            after, info = transform.method(model)(key, variables, forget, retain)
            params, state = model.split(after)
            before = model.params(variables)
            updates = _sent(transformation, optax.tree.sub(params, before), before)
            after = model.join(edits.apply(before, updates), state)
            return report(
                model,
                variables,
                after,
                (forget, retain),
                steps=info.steps,
                example_passes=info.example_passes,
                details=info.details,
            )

        return unlearn

    method.words = f"through({transform.words})"  # type: ignore[attr-defined]
    method.aim = transform.aim  # type: ignore[attr-defined]
    return dataclasses.replace(transform, method=method)


def refreshed(transform: Transform, mode: Refresh = "retain") -> Transform:
    """The transform, with the batch statistics of its result on the retain set.

    After an edit the running statistics still belong to the old weights, and hold what the forget
    set left in them: a claim of exact unlearning of a model with batch normalization must replace
    them. The parameters are those of the transform, bit for bit, and models without statistics
    come back as they are.

    Args:
      transform: a single transform; of a chain, refresh its last member.
      mode: "retain": exact over the retain set, as the layers see it in training mode, where each
        normalization in front has normalized with the batch's own statistics.
        "retain_sequential": as they see it in use, where the refreshed ones have normalized; all
        retained examples are then one batch. "none": the transform as it is.

    Returns:
      The transform; its `info` is that of the given one, whose passes do not count the refresh.

    Raises:
      ValueError: an unknown mode, and what `mu.loops.exact_statistics` raises.

    Cost: one forward pass over the retain set; "retain_sequential" in the memory of the
    activations of all of it.

    References:
      S. Ioffe, C. Szegedy. Batch Normalization: Accelerating Deep Network Training by Reducing
      Internal Covariate Shift. ICML 2015.
      Y. Wu, J. Johnson. Rethinking "Batch" in BatchNorm. arXiv 2105.07576, 2021.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_linen(mu.models.CNN((4,), 3), mu.losses.cross_entropy)
      >>> refreshed(mu.ssd(model, alpha=1.5)).words
      "refreshed(ssd(alpha=1.5), 'retain')"
    """
    _check_single(transform, "refresh its last member")
    if mode not in get_args(Refresh):
        raise ValueError(
            f"expected a mode among {', '.join(get_args(Refresh))}, found {mode!r}: choose one"
        )
    if mode == "none":
        return transform

    def method(model: Model) -> Unlearn:
        def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
            after, info = transform.method(model)(key, variables, forget, retain)
            own = None if key is None else jax.random.fold_in(key, _REFRESH)
            sequential = mode == "retain_sequential"
            return exact_statistics(model, after, retain, key=own, sequential=sequential), info

        return unlearn

    method.words = f"refreshed({transform.words}, {mode!r})"  # type: ignore[attr-defined]
    method.aim = transform.aim  # type: ignore[attr-defined]
    return dataclasses.replace(transform, method=method)


_REFRESH = 0x5EF2E54  # a number that no method folds into its key


def _check_single(transform: Any, advice: str) -> None:
    if isinstance(transform, Chain):
        raise TypeError(f"expected a single transform, found a chain: {advice}")


def _sent(transformation: optax.GradientTransformation, updates: PyTree, before: PyTree) -> PyTree:
    """The updates after the transformation, one program for all transformations of a kind."""

    def send(updates: PyTree, before: PyTree) -> PyTree:
        return transformation.update(updates, transformation.init(before), before)[0]

    args = updates, before
    if not at_once.is_known(args) or at_once.is_divided(args) or holds_tracer(transformation):
        return on_automatic_axes(send, *args, like=before)
    return lifting.run(lifting.lift(send, *args, owners=(transformation.update,)), *args)
