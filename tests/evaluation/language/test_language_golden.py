"""Metrics of language models against the numbers of the published programs, in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from golden_files import load
from token_tables import golden_statistics, scored_targets, text_statistics

from mu_jax.evaluation import auc, language

GOLDEN = load("lm_metrics.npz")
EXACT = {"rtol": 1e-12, "atol": 1e-13}
GUARDED = {"rtol": 2e-9, "atol": 2e-9}  # where a program adds 1e-10 to a divisor
ROUNDED = {"rtol": 1e-7}  # where a program rounds to float32


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def same(found, key, tolerance=EXACT):
    np.testing.assert_allclose(np.asarray(found), GOLDEN[key], err_msg=key, **tolerance)


@pytest.mark.parametrize("name", ["forget", "holdout"])
def test_every_target_counts(name):
    found = golden_statistics(GOLDEN, name)
    same(language.probability(found), f"{name}/prob")
    same(language.mean_nll(found), f"{name}/avg_loss")
    same(language.exact_memorization(found), f"{name}/all_targets/exact_memorization")
    same(language.extraction_strength(found), f"{name}/all_targets/extraction_strength")
    same(language.min_k(found), f"{name}/all_targets/min_k")
    same(language.min_k_plus_plus(found), f"{name}/all_targets/min_k_pp")


@pytest.mark.parametrize("name", ["forget", "holdout"])
def test_the_numbered_differences_are_all_the_differences(name):
    """The released numbers come out if the last target is dropped and a miss there is 1 / n."""
    found = golden_statistics(GOLDEN, name, without_last=True)
    same(language.exact_memorization(found), f"{name}/exact_memorization")
    strength = np.asarray(language.extraction_strength(found))
    counts = np.asarray(language.token_counts(found))
    same(np.where(strength == 0, 1 / counts, strength), f"{name}/extraction_strength")
    same(language.min_k(found), f"mia/min_k/{name}")
    same(language.min_k_plus_plus(found), f"mia/min_k_pp/{name}")
    whole = language.extraction_strength(golden_statistics(GOLDEN, name))
    assert np.abs(whole - GOLDEN[f"{name}/extraction_strength"]).max() > 0.05


@pytest.mark.parametrize("name", ["forget", "holdout"])
def test_scores_of_attacks(name):
    mean = language.mean_nll(golden_statistics(GOLDEN, name))
    same(mean, f"mia/loss/{name}")
    same(language.zlib_ratio(mean, list(GOLDEN[f"{name}/text"])), f"mia/zlib/{name}")
    other = language.mean_nll(golden_statistics(GOLDEN, name, table="ref_table"))
    same(language.reference_difference(mean, other), f"mia/reference/{name}")


@pytest.mark.parametrize("name", ["forget", "holdout"])
def test_norms_of_gradients(name):
    targets = scored_targets(GOLDEN, name, without_last=True)

    def loss(table, tokens, mask):
        one = type(targets)(tokens[None], mask[None])
        return language.mean_nll(language.token_statistics(table[one.tokens], one))[0]

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(
        GOLDEN["table"], targets.tokens, targets.mask
    )
    for order in (1, 2):
        found = language.gradient_norm({"table": gradients}, order)
        same(found, f"mia/gradnorm_{order}/{name}", ROUNDED)


@pytest.mark.parametrize(
    "attack", ["loss", "min_k", "min_k_pp", "zlib", "reference", "gradnorm_1", "gradnorm_2"]
)
def test_auc_and_privleak(attack):
    scores = [GOLDEN[f"mia/{attack}/{side}"] for side in ("forget", "holdout")]
    found = language.privleak(*scores, [1.0, 2.0], [1.0, 2.0])
    same(1 - found.auc, f"mia/{attack}/auc")
    same(found.value, f"mia/{attack}/privleak_vs_half", GUARDED | {"atol": 1e-7})
    other = 1 - GOLDEN[f"mia/{attack}/auc_other_model"]
    value = 100 * (found.auc - other) / other
    same(value, f"mia/{attack}/privleak_vs_other_model", GUARDED | {"atol": 1e-6})


@pytest.mark.parametrize("model, table", [("model", "table"), ("other_model", "ref_table")])
def test_scores_of_whole_texts(model, table):
    sides = []
    for side in ("forget", "holdout"):
        texts = [str(text) for text in GOLDEN[f"muse/privleak/{side}_text"]]
        found = text_statistics(GOLDEN, texts, table)
        key = f"muse/privleak/{model}/{side}"
        sides.append(language.min_k(found, float(GOLDEN["muse/privleak/k"])))
        same(sides[-1], f"{key}_min_k")
        same(language.mean_nll(found), f"{key}_ppl")
        same(language.zlib_ratio(language.mean_nll(found), texts), f"{key}_ppl_zlib")
    same(auc(*sides), f"muse/privleak/{model}/auc_forget_holdout")


def test_privleak_of_two_models():
    key = "muse/privleak/{}/{}_min_k"
    scores = [
        GOLDEN[key.format(m, s)] for m in ("model", "other_model") for s in ("forget", "holdout")
    ]
    same(language.privleak(*scores).value, "muse/privleak/score")


SETS = ["forget", "forget_reference", "retain", "real_authors", "world_facts"]


def tofu(name):
    keys = ("answer_loss", "perturbed_losses", "rougeL_recall", "paraphrased_loss")
    return language.TofuSet(*(GOLDEN[f"tofu/{name}/{key}"] for key in keys))


@pytest.mark.parametrize("name", SETS)
def test_truth_ratio_in_its_three_aggregates(name):
    part, key = tofu(name), f"tofu/{name}/truth_ratio"
    ratio = language.truth_ratio(part.paraphrased_nll, part.perturbed_nll)
    same(ratio, f"{key}/by_example", GUARDED)
    same(language.closeness_to_one(ratio).mean(), f"{key}/closer_to_1_better", GUARDED)
    same(language.preference_for_truth(ratio).mean(), f"{key}/true_better", GUARDED)
    same(language.share_of_truth(ratio).mean(), f"{key}/prob_mean", GUARDED)
    options = language.probability_with_options(part.answer_nll, part.perturbed_nll)
    same(options.mean(), f"tofu/{name}/probability_with_options", GUARDED)


NAMES = {"forget": "Forget", "retain": "Retain", "real authors": "Real Authors"} | {
    "world facts": "Real World"
}


def test_the_benchmarks_own_table():
    sets = {name: tofu(name.replace(" ", "_")) for name in NAMES}
    for name, title in NAMES.items():
        found = language.utility_numbers(sets[name], name)
        key = "tofu/original/geometric/"
        same(found["ROUGE"].mean(), f"{key}ROUGE {title}")
        same(found["probability"].mean(), f"{key}Prob. {title}", GUARDED)
        same(found["truth ratio"].mean(), f"{key}Truth Ratio {title}", GUARDED)
        part = sets[name]
        ratio = language.truth_ratio(part.paraphrased_nll, part.perturbed_nll, average="arithmetic")
        score = language.closeness_to_one if name == "forget" else language.preference_for_truth
        same(score(ratio).mean(), f"tofu/original/arithmetic/{title} Truth Ratio", GUARDED)
    same(language.model_utility(sets), "tofu/original/geometric/Model Utility", GUARDED)


def test_utility_and_forget_quality():
    same(language.harmonic_mean(GOLDEN["tofu/nine_numbers"]), "tofu/model_utility_of_nine")
    ratios = [
        language.truth_ratio(part.paraphrased_nll, part.perturbed_nll)
        for part in map(tofu, ("forget", "forget_reference"))
    ]
    found = language.forget_quality(*ratios)
    same(found.p_value, "tofu/forget_quality")
    same(found.statistic, "tofu/original/geometric/KS Test Forget")


def test_rouge():
    texts = [
        [str(text) for text in GOLDEN[f"rouge/{side}"]] for side in ("generation", "reference")
    ]
    found = language.rouge_l(*texts, stem=True)
    same(found.recall, "rouge/stemmed/rougeL_recall")
    same(found.f1, "rouge/stemmed/rougeL_f1")
    same(language.rouge_1(*texts, stem=True).recall, "rouge/stemmed/rouge1_recall")


def test_memorization_of_muse():
    texts = {key: [str(x) for x in GOLDEN[f"muse/{key}"]] for key in MUSE_TEXTS}
    found = language.verbatim_memorization(
        texts["verbmem/reply"],
        texts["verbmem/truth"],
        encode=str.split,
        decode=" ".join,
        tokens=int(GOLDEN["muse/verbmem/max_new_tokens"]),
    )
    same(found, "muse/verbmem/rougeL_f1")
    same(100 * found.mean(), "muse/verbmem/score")
    raw = texts["knowmem/raw_reply"]
    assert [language.cut_answer(text) for text in raw] == texts["knowmem/cut_reply"]
    found = language.knowledge_memorization(raw, texts["knowmem/answer"])
    same(found, "muse/knowmem/rougeL_f1")
    same(100 * found.mean(), "muse/knowmem/score")


MUSE_TEXTS = ["verbmem/reply", "verbmem/truth"] + [
    f"knowmem/{name}" for name in ("raw_reply", "cut_reply", "answer")
]


@pytest.mark.parametrize("normalized", [False, True])
def test_ches(normalized):
    golden = load("lm_ches.npz")
    sides = []
    for side in ("preferred", "dispreferred"):
        states = golden[f"hidden_{side}"]
        prompt = golden[f"last_prompt_index_{side}"][:, None]
        sides += [states, np.arange(states.shape[1]) > prompt]
    found = language.ches(*sides, normalized=normalized)
    wanted = golden["score_length_normalised" if normalized else "score"]
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
