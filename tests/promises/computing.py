"""Right numbers: tables, ids, labels, masked classes, hyper-parameters, models of every make."""

from __future__ import annotations

from promises import Mutation

_CONTRACTIONS = "mu_jax/statistics/_engine/contractions.py"
_MATRICES = "mu_jax/statistics/_engine/matrices.py"
_PRODUCTS = "mu_jax/statistics/_engine/products.py"
_LOSSES = "mu_jax/losses.py"
_LABELS = "mu_jax/loops/labels.py"
_BLINDSPOT = "mu_jax/objectives/blindspot.py"
_EDITS = "mu_jax/edits.py"
_LOOKUPS = "tests/statistics/test_per_example_lookups.py::"
_MAPPING = "tests/test_mapping.py::"
_OF_LABELS = "tests/loops/test_labels.py::"
_MASKED = "tests/test_masked_classes.py::"
_ADAPTERS = "tests/test_adapters.py::"
_WRONG = "tests/test_wrong_arguments.py::"
_BAD = "tests/test_bad_input.py::"
_SHRINK = "tests/transforms/general/test_boundary_shrink.py::"

ROWS = (
    Mutation(
        "rows beyond a table count in norms",
        _CONTRACTIONS,
        "    known = row < a.shape[-1]\n",
        "    known = row >= 0\n",
        (_LOOKUPS + "test_rows_beyond_a_table_count_as_in_a_plain_gradient",),
    ),
    Mutation(
        "row numbers overflow their narrow type",
        _MATRICES,
        "            x = x.astype(jnp.int32)\n        if self.clips",
        "            x = x + 0\n        if self.clips",
        (_LOOKUPS + "test_rows_may_be_numbered_in_any_integer_type",),
    ),
    Mutation(
        "an embedding of 128 words does not take words in eight bits",
        _MATRICES,
        "            x = x.astype(jnp.int32)\n        if self.clips",
        "            x = x + 0\n        if self.clips",
        (_LOOKUPS + "test_an_embedding_takes_narrow_words",),
    ),
    Mutation(
        "labels overflow their narrow type",
        "mu_jax/_at_once.py",
        "    return as_array(labels, jnp.int32) if narrow else labels\n",
        "    return labels\n",
        (_OF_LABELS + "test_labels_of_narrow_types_are_the_same_labels",),
    ),
    Mutation(
        "classes are as many as the narrow type of the labels can count",
        "mu_jax/_at_once.py",
        "    return as_array(labels, jnp.int32) if narrow else labels\n",
        "    return labels\n",
        ("tests/test_narrow_integers.py::test_narrow_integers_are_the_same_integers",),
    ),
    Mutation(
        "labels are drawn from as many classes as their narrow type can count",
        "mu_jax/objectives/relabel.py",
        "draw)(batch.index, wide(batch.targets))",
        "draw)(batch.index, batch.targets)",
        ("tests/test_narrow_integers.py::test_labels_are_drawn_from_all_classes",),
    ),
    Mutation(
        "outputs of examples with ids below zero are dropped",
        "mu_jax/loops/predict.py",
        "        position = count + jnp.arange(here)\n",
        "        position = jnp.where(batch.index[:here] < 0, 2**30, count + jnp.arange(here))\n",
        (_MAPPING + "test_every_example_has_a_row_whatever_its_id",),
    ),
    Mutation(
        "a stream in memory loses examples with ids below zero",
        "mu_jax/data/batches.py",
        "    real = joined[2] > 0\n",
        "    real = joined[3] >= 0\n",
        (_MAPPING + "test_a_method_gives_the_same_for_ids_below_zero",),
    ),
)

LABELS = (
    Mutation(
        "a label that is no class has the loss of another class",
        _LOSSES,
        "    return losses * jnp.where(allowed, 1, jnp.nan).astype(losses.dtype)",
        "    return losses + 0 * allowed.astype(losses.dtype)",
        (_OF_LABELS + "test_the_losses_themselves_refuse_or_poison",),
    ),
    Mutation(
        "a loss takes a label that is no class though it sees it",
        _LOSSES,
        "    refuse_labels(targets, classes, ignored)\n",
        "",
        (_OF_LABELS + "test_the_losses_themselves_refuse_or_poison",),
    ),
    Mutation(
        "the cross-entropy of optax takes a label that is no class",
        _LOSSES,
        "    return cross_entropy if plain else loss\n",
        "    return loss\n",
        (_OF_LABELS + "test_where_labels_cannot_be_seen_the_result_is_not_finite",),
    ),
    Mutation(
        "methods take labels that are no class",
        _LABELS,
        '        refuse_labels(labels, classes, ignored, f" of the {name} set")\n',
        "",
        (_OF_LABELS + "test_methods_refuse_labels_that_are_no_class",),
    ),
    Mutation(
        "rows whose label is ignored count in the divisor",
        _LABELS,
        "    weight = jnp.where(some, batch.weight * count, 0)\n",
        "    weight = batch.weight\n",
        (_OF_LABELS + "test_methods_do_as_without_the_rows_that_are_ignored",),
    ),
    Mutation(
        "statistics count rows whose label is ignored",
        "mu_jax/statistics/importance.py",
        "        batch = counted(model, batch) if supervised else batch\n",
        "",
        (_OF_LABELS + "test_statistics_are_those_of_the_other_rows",),
    ),
    Mutation(
        "the divergence is NaN at a class that a model rules out",
        _LOSSES,
        "    terms = jnp.where(some, jnp.exp(aim) * jnp.where(some, aim - found, 0), 0)\n",
        "    terms = jnp.exp(aim) * (aim - found) + 0 * some\n",
        (_MASKED + "test_a_class_that_only_the_outputs_rule_out_is_infinitely_far",),
    ),
    Mutation(
        "the squared distance is NaN at a class that a model rules out",
        "mu_jax/objectives/matching.py",
        "jnp.square(jnp.where(some, jnp.where(some, outputs, 0) - targets, 0))",
        "jnp.square(outputs - targets)",
        (_MASKED + "test_methods_do_as_with_the_smaller_head",),
    ),
    Mutation(
        "Blindspot divides by masks that it has set to 0",
        _BLINDSPOT,
        "        return jnp.where(rows.reshape(-1, *(1,) * (x.ndim - 1)), x, "
        "jax.lax.stop_gradient(x))\n",
        "        return x + 0 * rows.reshape(-1, *(1,) * (x.ndim - 1))\n",
        (_MASKED + "test_targets_may_hold_masks_of_which_those_to_forget_are_not_read",),
    ),
    Mutation(
        "what is wrong before the first update is blamed on the learning rate",
        "mu_jax/loops/fit.py",
        "    if step == 0:\n        return (\n",
        "    if step == 0:\n"
        '        return f"{found}; lower the learning rate."\n        return (\n',
        (
            "tests/loops/test_fit.py::"
            "test_what_is_wrong_before_the_first_update_is_not_blamed_on_the_learning_rate",
        ),
    ),
)

NUMBERS = (
    Mutation(
        "rounding of equal parameters is a step of the curvature term",
        "mu_jax/objectives/boundary.py",
        "jnp.where(differ & (batch.weight > 0), apart, 0)",
        "jnp.where(batch.weight > 0, apart, 0)",
        (_SHRINK + "test_the_curvature_of_equal_parameters_pulls_nowhere",),
    ),
    Mutation(
        "complex parameters are taken, and their gradient points uphill",
        "mu_jax/data/checks.py",
        "        if jnp.issubdtype(dtype, jnp.complexfloating):\n",
        "        if jnp.issubdtype(dtype, jnp.complexfloating):\n            continue\n"
        "        if jnp.issubdtype(dtype, jnp.complexfloating):\n",
        (_WRONG + "test_complex_parameters_are_refused_by_name_unless_frozen[fit]",),
    ),
    Mutation(
        "a seed of 33 bits is the key of another seed",
        "experiments/lib/command_line.py",
        "upper_bound=own_flags.LARGEST, flag_values=values\n    )\n\n\ndef define_seeds",
        "upper_bound=None, flag_values=values\n    )\n\n\ndef define_seeds",
        ("tests/experiments/test_command_line.py::test_a_seed_of_another_key_is_refused",),
    ),
    Mutation(
        "SSD takes a dampening below 0, which flips signs",
        "mu_jax/transforms/general/ssd.py",
        "    check_range(high=3e38, dampening=dampening)\n",
        "",
        (_BAD + "test_numbers_that_cannot_be_are_refused",),
    ),
    Mutation(
        "SSD takes an alpha that is negative or NaN",
        "mu_jax/transforms/general/ssd.py",
        "    check_range(alpha=None if adaptive else alpha)\n",
        "",
        (_BAD + "test_numbers_that_cannot_be_are_refused",),
    ),
    Mutation(
        "the edit takes a dampening below 0, which flips signs",
        _EDITS,
        "    check_range(high=_LARGEST, dampening=dampening)\n",
        "",
        ("tests/data/test_checks.py", "tests/test_edits.py"),
    ),
    Mutation(
        "pruning takes a sparsity above 1",
        "mu_jax/transforms/general/magnitude_prune.py",
        "    check_range(0, 1, sparsity=sparsity)\n",
        "    check_range(sparsity=sparsity)\n",
        ("tests/data/test_checks.py", "tests/transforms/general/test_magnitude_prune.py"),
    ),
    Mutation(
        "conjugate gradients in float64 are damped by a float32 number",
        "mu_jax/statistics/curvature/products.py",
        "return mean + xp.asarray(l2, mean.dtype) * v",
        "return mean + xp.asarray(xp.asarray(l2, 'float32'), mean.dtype) * v",
        ("tests/test_float64.py::test_conjugate_gradients_are_damped_by_the_exact_weight",),
    ),
    Mutation(
        "conjugate gradients go on where there is no curvature",
        "mu_jax/solvers/conjugate_gradients.py",
        "stopped = ~(curvature > 0)",
        "stopped = ~(curvature == curvature)",
        ("tests/solvers/test_solvers.py::test_negative_curvature_stops_and_says_so",),
    ),
    Mutation(
        "the bound of a certified removal is of the removed rows",
        "mu_jax/exact/certified.py",
        "norm = _spectral_norm(kept)",
        "norm = _spectral_norm(gone)",
        ("tests/exact/test_certified.py::test_all_heads_read_the_same_retained_rows",),
    ),
    Mutation(
        "a penalty beside the mean counts as one beside the sum",
        "mu_jax/attribution/linear.py",
        "    if mean:\n        penalty = l2 * (len(x)",
        "    if False:\n        penalty = l2 * (len(x)",
        ("tests/attribution/test_leave_out.py::test_softmax_step_with_a_penalty_beside_the_mean",),
    ),
)

MODELS = (
    Mutation(
        "a leaf without entries ends in a division by zero",
        _PRODUCTS,
        "[Origin(k) if x.size else False for k, x in enumerate(leaves)]",
        "[Origin(k) for k, x in enumerate(leaves)]",
        ("tests/test_no_entries.py",),
    ),
    Mutation(
        "SSD takes the maximum over a leaf without entries",
        _EDITS,
        "xp.stack([x.max() for x in jax.tree.leaves(tree) if x.size]).max()",
        "xp.stack([x.max() for x in jax.tree.leaves(tree)]).max()",
        ("tests/test_no_entries.py",),
    ),
    Mutation(
        "a mixture of experts by ragged products has no importance",
        _PRODUCTS,
        '_NOT_MAPPED = {"ragged_dot", "ragged_dot_general"}',
        "_NOT_MAPPED: set[str] = set()",
        ("tests/statistics/test_per_example.py::test_squares_equal_a_loop",),
    ),
    Mutation(
        "stacked blocks of nnx with dropout do not train",
        "mu_jax/_nnx.py",
        'nnx.reseed(copy, policy="match_shape", **keys)',
        "nnx.reseed(copy, **keys)",
        (_ADAPTERS + "test_stacked_blocks_with_dropout_train",),
    ),
    Mutation(
        "a loss without a hash is refused",
        "mu_jax/model.py",
        "object.__setattr__(self, field.name, hashable(getattr(self, field.name)))",
        "getattr(self, field.name)",
        (_ADAPTERS + "test_callables_without_a_hash_do_as_functions",),
    ),
    Mutation(
        "a mode that is static by position is traced",
        "mu_jax/_arguments.py",
        "if not left or fixed or not (given or parameter.default is not parameter.empty):",
        "if not left or fixed or given or not given:",
        (_ADAPTERS + "test_a_mode_that_is_static_by_position",),
    ),
    Mutation(
        "TRAK takes targets of several parts",
        "mu_jax/attribution/_features.py",
        '    if not hasattr(labels, "dtype") or labels.ndim != 1 or not _is_integer(labels):\n',
        "    if False:\n",
        (_WRONG + "test_structured_targets",),
    ),
    Mutation(
        "Gaussian amnesia takes targets of one part alone",
        "mu_jax/transforms/general/gaussian_amnesiac.py",
        "    leaves, structure = jax.tree.flatten(targets[0])\n",
        "    leaves, structure = [targets[0]], jax.tree.structure(0)\n",
        (_WRONG + "test_structured_targets",),
    ),
    Mutation(
        "an attribution of another shape is broadcast",
        "mu_jax/transforms/general/dmm.py",
        "            if jnp.shape(effect) != known.shape:\n",
        "            if False:\n",
        (_WRONG + "test_an_attribution_of_another_shape_is_not_broadcast",),
    ),
)

MISTAKES = (
    Mutation(
        "a TrainState in place of variables is a traceback",
        "mu_jax/model.py",
        "    if not isinstance(variables, Mapping):\n        hint",
        "    if False:\n        hint",
        (_ADAPTERS + "test_a_train_state_is_no_variables",),
    ),
    Mutation(
        "an nnx state of parameters alone is a traceback",
        "mu_jax/_nnx.py",
        "        except ValueError as error:\n            raise ValueError(",
        "        except ValueError as error:\n"
        "            raise error\n            raise ValueError(",
        (_ADAPTERS + "test_an_nnx_state_without_its_statistics_is_refused",),
    ),
    Mutation(
        "a loader of another library is a traceback",
        "mu_jax/data/batches.py",
        "    if not isinstance(batch, Batch):\n",
        "    if False:\n",
        (_WRONG + "test_loaders_of_other_libraries_are_refused",),
    ),
    Mutation(
        "key and variables that are swapped are a traceback",
        "mu_jax/transforms/_shared/keys.py",
        "    if swapped or not (key is None",
        "    if False and not (key is None",
        (_WRONG + "test_a_key_in_the_place_of_the_variables_is_refused",),
    ),
    Mutation(
        "a stream under jit is a traceback",
        "mu_jax/loops/scan.py",
        "    if not at_once.is_known((carry, frozen, key)):\n"
        '        raise ValueError(\n            "expected array-',
        '    if False:\n        raise ValueError(\n            "expected array-',
        (_WRONG + "test_a_stream_under_jit_is_refused_by_a_sentence",),
    ),
    Mutation(
        "oracles must be one tree of stacked models",
        "mu_jax/transforms/general/oracle_matching.py",
        "    if isinstance(oracles, list) or type(oracles) is tuple:",
        "    if False:",
        (_WRONG + "test_oracles_may_be_a_list",),
    ),
    Mutation(
        "ids to forget must be an array",
        "mu_jax/data/forget_retain.py",
        'named = forget_ids if hasattr(forget_ids, "__array__") else list(forget_ids)',
        "named = forget_ids",
        (_WRONG + "test_ids_come_in_any_container",),
    ),
    Mutation(
        "a module of equinox that is not partitioned is a traceback",
        "mu_jax/data/checks.py",
        'if not hasattr(leaf, "dtype") and not isinstance(leaf, int | float | complex):',
        "if False:",
        (_WRONG + "test_parameters_that_are_no_arrays_of_floats_are_refused_by_name",),
    ),
    Mutation(
        "a module whose mode has no known name is called without it",
        "mu_jax/_arguments.py",
        '    "use_running_average": False,\n',
        "",
        (_ADAPTERS + "test_the_mode_is_found_by_its_name",),
    ),
    Mutation(
        "a module of arguments that have no known name is a traceback",
        "mu_jax/_arguments.py",
        "    if not isinstance(inputs, tuple) or len(inputs) != len(several):\n",
        "    if False:\n",
        (_BAD + "test_a_mistake_is_answered_by_one_sentence",),
    ),
    Mutation(
        "the text of batches prints the data",
        "mu_jax/data/batches.py",
        "    def __repr__(self) -> str:\n        size, where",
        "    def text(self) -> str:\n        size, where",
        (_WRONG + "test_the_text_of_batches_does_not_print_the_data",),
    ),
)

COMPUTING = (*ROWS, *LABELS, *NUMBERS, *MODELS, *MISTAKES)
