"""WMDP on disk: accuracy by domain, the letter with the largest logit.

    python -m experiments.language --config experiments/configs/language_wmdp.py --seeds=1 \\
        --config.data_dir=data/wmdp --config.model.directory=models/zephyr \\
        --config.model.retrained="('models/zephyr_filtered',)"

Files in `data_dir`, by domain (`bio`, `cyber`), under the names in which they are spread:

    bio-forget-corpus.jsonl or bio_remove_dataset.jsonl   text
    bio-retain-corpus.jsonl or bio_retain_dataset.jsonl   text
    bio_questions.json, here or in wmdp-mcqs/             question, choices (four), answer (0 to 3)
    utility_questions.json, if there is one               the same, such as those of MMLU

No retrained model is published; one trained on filtered data stands in `model.retrained`, or
another that knows nothing of it, which then is a bound only. See `language_tofu.py` on models.
"""

from ml_collections import config_dict

from experiments.configs import language_tofu


def get_config() -> config_dict.ConfigDict:
    """The configuration of WMDP."""
    config = language_tofu.get_config()
    config.task = "wmdp"
    config.data = dict(domains=("bio", "cyber"), passages=2_000, context=512)
    recipe = dict(retain_rows=1, steps=125, batch_size=16, learning_rate=5e-6, alpha=1.0)
    config.methods = dict(
        npo=dict(recipe, beta=0.0225, gamma=1.0),
        npo_sam=dict(recipe, method="npo", beta=0.015, gamma=2.25, sam=0.01),
    )
    config.relearning = dict(shown=20, steps=5, batch_size=4, learning_rate=1e-5)
    return config
