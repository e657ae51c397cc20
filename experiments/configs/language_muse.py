"""MUSE on disk, News or Books: verbatim text, knowledge, privacy leakage.

    python -m experiments.language --config experiments/configs/language_muse.py --seeds=1 \\
        --config.data_dir=data/muse --config.model.directory=models/muse_news_target \\
        --config.model.retrained="('models/muse_news_retrain',)"

Files in `data_dir/news`, or `books`, as the benchmark is spread:

    raw/forget.txt, raw/retain1.txt                    passages to forget, and of the retain term
    verbmem/forget.json                                prompt, gt
    knowmem/{forget,retain}_qa.json, ..._qa_icl.json   question, answer
    privleak/{forget,holdout}.json                     texts, or objects with text

A `.txt` is one passage, so that relearning on a part of the passages needs JSON with several there;
`relearning.shown` is 0. See `language_tofu.py` on models. Published: AdamW 1e-5, batches of 32.
"""

from ml_collections import config_dict

from experiments.configs import language_tofu


def get_config() -> config_dict.ConfigDict:
    """The configuration of MUSE."""
    config = language_tofu.get_config()
    config.task = "muse"
    config.data = dict(corpus="news", context=2_048)
    config.relearning.shown = 0
    return config
