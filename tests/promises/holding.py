"""Promises of entries and weights that are held: bits, zeros, and what a subspace leaves alone."""

from __future__ import annotations

from promises import Mutation

_HELD = "tests/test_held_entries.py::"

HOLDING = (
    Mutation(
        "a chain lets its members revive what was pruned",
        "mu_jax/combinators.py",
        "            masks |= _zeros_kept(member, variables)\n",
        "",
        (_HELD + "test_zeros_of_a_pruned_model_are_kept_in_a_chain_of_any_depth",),
    ),
    Mutation(
        "a fit does not hear of held entries, which are put back alone",
        "mu_jax/transforms/_shared/held.py",
        "with holding(model, masks):",
        "with holding(model, {}):",
        (_HELD + "test_a_fit_learns_with_the_held_entries_where_they_are",),
    ),
    Mutation(
        "held entries are not put back at the end of a step",
        "mu_jax/transforms/_shared/held.py",
        "            params = restored(model.params(variables), params, masks)\n",
        "",
        (_HELD + "test_only_salient_entries_move",),
    ),
    Mutation(
        "the masks of one model hold the fits of others",
        "mu_jax/loops/update_masks.py",
        "if whole_of(held.model).predict == whole_of(model).predict:",
        "if held.model:",
        (_HELD + "test_a_fit_of_another_model_is_free",),
    ),
    Mutation(
        "the penalty moves weights that are 0",
        "mu_jax/transforms/general/l1_sparse.py",
        "return (wide * jax.lax.stop_gradient(jnp.sign(wide))).sum()",
        "return jnp.abs(wide).sum()",
        (
            "tests/transforms/general/test_l1_sparse.py::"
            "test_the_norm_has_the_derivative_of_the_sign_which_is_0_at_0",
        ),
    ),
    Mutation(
        "a tree of bools of other parameters passes as a mask",
        "mu_jax/freezing.py",
        "            check_names_of_mask(params, choice.known)\n",
        "            pass\n",
        ("tests/test_restrict.py::test_a_mask_of_another_tree_is_refused",),
    ),
    Mutation(
        "a rank larger than the matrix passes",
        "mu_jax/adapters/_leaves.py",
        "    if not 1 <= rank <= most:\n",
        "    if not 1 <= rank:\n",
        ("tests/subspaces/test_subspaces.py::test_what_does_not_fit_is_refused_in_one_sentence",),
    ),
    Mutation(
        "rounds of pruning begin where the last one ended",
        "mu_jax/pruning.py",
        "rewound = model.with_params(variables, apply(params, mask))",
        "rewound = model.with_params(trained, apply(model.params(trained), mask))",
        ("tests/test_pruning.py::test_rounds_with_rewinding_and_retraining",),
    ),
)
