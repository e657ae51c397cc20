"""RWKU on disk: one famous person, asked for in three ways, and neighbors who are kept.

    python -m experiments.language --config experiments/configs/language_rwku.py --seeds=1 \\
        --config.data_dir=data/RWKU/Target --config.data.target=1_Stephen_King \\
        --config.model.directory=models/llama --config.model.retrained="('models/other',)"

Files in `data_dir/1_Stephen_King`, as the benchmark's own script writes them:

    passage.json                            text
    forget_level{1,2,3}.json                query, answer, type
    neighbor_level{1,2}.json                the same

Passages of the other targets in `data_dir` are retained. The benchmark gives no retrained model:
one that never read of the person, such as another of the same sizes, stands in `model.retrained`.
Prompts are plain, without a chat template. See `language_tofu.py` on models.
"""

from ml_collections import config_dict

from experiments.configs import language_tofu


def get_config() -> config_dict.ConfigDict:
    """The configuration of RWKU."""
    config = language_tofu.get_config()
    config.task = "rwku"
    config.data = dict(target="1_Stephen_King", others=20, context=512)
    recipe = dict(gamma=1.0, alpha=1.0, retain_rows=1, epochs=3, batch_size=4, learning_rate=1e-5)
    config.methods = dict(npo=dict(recipe, beta=0.1), grad_diff=dict(recipe))
    config.relearning = dict(shown=1, steps=10, batch_size=4, learning_rate=1e-5)
    return config
