"""Llama 3.2 1B, to be compiled only: unlearning of rows of 1,024 tokens on 16 chips.

    python -m launch_tpu.preflight --topology=v5e:4x4 --methods=npo,rmu,ssd,evaluation \\
        --config=launch_tpu/configs/llama_1b.py

Sizes of the sets are those of TOFU, a tenth to forget. Parameters and the optimizer are float32,
divided over all chips; the computation is bfloat16.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The configuration for `--config`."""
    recipe = dict(optimizer="adamw", learning_rate=1e-5, epochs=10)
    return config_dict.create(
        decoder=dict(
            kind="llama",
            vocab_size=128_256,
            width=2048,
            depth=16,
            num_heads=32,
            num_kv_heads=8,
            head_dim=64,
            mlp_width=8192,
            max_positions=131_072,
            norm_eps=1e-5,
            rope_theta=500_000.0,
            tied_head=True,
        ),
        computation=dict(dtype="bfloat16", parameters="float32", remat=True, chunk=256),
        rows=dict(examples=4000, forget=400, length=1024),
        batch_size=16,
        fsdp=16,
        methods=dict(
            finetune=dict(optimizer="adamw", learning_rate=1e-5, epochs=1),
            npo=dict(recipe, beta=0.1),
            rmu=dict(recipe, layer=7, scale=6.5),
            ssd=dict(alpha=10.0, dampening=1.0),
            evaluation=dict(),
        ),
        selection="published defaults, not tuned",
    )
