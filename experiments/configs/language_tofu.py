"""TOFU on disk: a local model that knows all authors, and one that never saw those to forget.

    python -m experiments.language --config experiments/configs/language_tofu.py \\
        --config.data_dir=data/tofu --config.model.directory=models/tofu_full \\
        --config.model.retrained="('models/tofu_retain90',)" --seeds=1

Files in `data_dir`, JSON lines or JSON lists as the benchmark is spread:

    forget10.json, retain90.json            question, answer; in the order of authors
    forget10_perturbed.json                 and paraphrased_answer, perturbed_answer (a list)
    retain_perturbed.json                   the same
    real_authors_perturbed.json             question, answer, perturbed_answer
    world_facts_perturbed.json              the same

`model.directory` is read as transformers writes it (safetensors, `config.json`, `tokenizer.json`).
Give two retrained models, and the table shows what chance gives. Without any, `training.epochs` of
5 fine-tunes `model.directory`, then the base model, on everything and on what is retained. Nothing
is divided over devices: a model must fit one. Published: AdamW 1e-5, batches of 32, 10 epochs.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The configuration of TOFU; those of other benchmarks on disk begin with it."""
    config = config_dict.ConfigDict()
    config.task = "tofu"
    config.data_dir = ""
    config.data = dict(
        forget="forget10",
        retain="retain90",
        template="plain",  # or "chat", the template in model.directory
        of_author=20,  # questions of one author
        measured=400,  # most questions of a set
        max_new=64,
    )
    config.splits = 1
    config.model = dict(directory="", retrained=())
    config.training = dict(epochs=0, batch_size=32, learning_rate=1e-5, warmup=20)
    config.block = 1
    recipe = dict(gamma=1.0, alpha=1.0, retain_rows=1, epochs=10, batch_size=32, learning_rate=1e-5)
    config.methods = dict(npo=dict(recipe, beta=0.1), grad_diff=dict(recipe))
    config.selection = "published values"
    config.relearning = dict(shown=2, steps=20, batch_size=4, learning_rate=1e-5)
    return config
