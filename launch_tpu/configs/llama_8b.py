"""Llama 3.1 8B, to be compiled only: unlearning of rows of 1,024 tokens on 64 chips.

    python -m launch_tpu.preflight --topology=v5p:4x4x4 --methods=npo,rmu,ssd,evaluation \\
        --config=launch_tpu/configs/llama_8b.py

Sets, methods and types are those of `llama_1b.py`.
"""

from ml_collections import config_dict

from launch_tpu.configs import llama_1b


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    config = llama_1b.get_config()
    config.decoder.update(width=4096, depth=32, head_dim=128, mlp_width=14_336, tied_head=False)
    config.batch_size = config.fsdp = 64
    return config
