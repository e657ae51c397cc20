"""What a decoder is made of, checked."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from mu_jax._gguf import is_gguf, open_gguf
from mu_jax.models.decoder import _config_json, _gguf_config

KINDS = ("llama", "mistral", "qwen2", "qwen3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3's stretching of rotary frequencies for contexts longer than those of pretraining.

    A frequency f of wavelength `w = 2 pi / f` stays where `w < P / high`, becomes `f / factor`
    where `w > P / low`, and lies between the two, linear in `P / w`, elsewhere; P is
    `original_max_positions`.

    Attributes:
      factor: how much longer the contexts are, 8 in Llama 3.1 and 32 in Llama 3.2.
      low_frequency_factor: `low`, 1.
      high_frequency_factor: `high`, 4.
      original_max_positions: P, 8,192.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_max_positions: int

    def __post_init__(self) -> None:
        low, high = self.low_frequency_factor, self.high_frequency_factor
        if not (self.factor >= 1 and 0 < low < high and self.original_max_positions >= 1):
            raise ValueError(
                "expected a rope scaling with factor >= 1, 0 < low < high and positions, found "
                f"{self}"
            )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The sizes and choices of a decoder: all that its computation depends on beside its arrays.

    Attributes:
      kind: `llama` (2 and 3), `mistral`, `qwen2` (2.5 as well: offsets at query, key and value) or
        `qwen3` (norms of queries and keys).
      vocab_size: number of tokens V.
      width: size of a token's state d.
      depth: number of blocks L.
      num_heads: query heads.
      num_kv_heads: key and value heads, each of which serves `num_heads / num_kv_heads` queries.
      head_dim: size of a head, an even number.
      mlp_width: hidden width of a block's perceptron.
      max_positions: longest row that the model reads.
      norm_eps: added to the mean square in RMSNorm.
      rope_theta: base of the rotary frequencies.
      rope_scaling: Llama 3's stretching of them, or None.
      tied_head: whether the head is the table of embeddings.
      sliding_window: how many tokens, itself counted, a token sees in the layers of
        `sliding_layers`; None: all earlier ones everywhere.
      sliding_layers: a bool for each block; `()` is all of them where there is a window.
      initializer_range: standard deviation of new kernels and embeddings.
      bos_token, pad_token: ids, or None.
      eos_tokens: ids that end a text.

    Raises:
      ValueError: sizes that do not fit together, named.

    Example:
      >>> DecoderConfig("llama", vocab_size=32, width=8, depth=2, num_heads=2, num_kv_heads=1,
      ...               head_dim=4, mlp_width=16, max_positions=64).tied_head
      False
    """

    kind: str
    vocab_size: int
    width: int
    depth: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    max_positions: int
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    tied_head: bool = False
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] = ()
    initializer_range: float = 0.02
    bos_token: int | None = None
    eos_tokens: tuple[int, ...] = ()
    pad_token: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"expected a kind among {', '.join(KINDS)}, found {self.kind!r}")
        self._check_sizes()
        if self.sliding_window is None:
            object.__setattr__(self, "sliding_layers", ())
        elif not self.sliding_layers:
            object.__setattr__(self, "sliding_layers", (True,) * self.depth)
        if self.kind == "llama" and self.sliding_window is not None:
            raise ValueError("expected no sliding_window in llama, found one: mistral has windows")
        if self.kind == "mistral" and not all(self.sliding_layers):
            raise ValueError("expected a window in all layers of mistral, found some without")
        if len(self.sliding_layers) not in (0, self.depth):
            raise ValueError(
                f"expected sliding_layers for {self.depth} blocks, found "
                f"{len(self.sliding_layers)}: give one bool for each block"
            )

    def _check_sizes(self) -> None:
        sizes = ["vocab_size", "width", "depth", "num_heads", "num_kv_heads", "head_dim"]
        for name in [*sizes, "mlp_width", "max_positions", "sliding_window"]:
            size = getattr(self, name)
            if size is None and name == "sliding_window":
                continue
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"expected a positive number as {name}, found {size!r}")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(f"expected a positive number as {name}, found {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"expected num_heads to be a multiple of num_kv_heads, found {self.num_heads} and "
                f"{self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"expected an even head_dim to rotate, found {self.head_dim}")

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have offsets."""
        return self.kind == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalized, head by head."""
        return self.kind == "qwen3"

    @classmethod
    def read(
        cls, directory: str | os.PathLike[str], *, ignore: tuple[str, ...] = ()
    ) -> DecoderConfig:
        """The config in a local `config.json` of the Hugging Face kind, or in a GGUF file.

        Nothing in the file is passed over silently: a key that is not known, and an option that
        this decoder does not compute, are refused by name. An unknown option that is off (null,
        false, empty) is no option.

        Args:
          directory: where `config.json` lies, or a file `*.gguf`.
          ignore: keys that the caller vouches for: they do not change the computation.

        Raises:
          FileNotFoundError: no `config.json`, or no such file.
          ValueError: another architecture, rope type or activation, a quantized model, biases in
            Llama's layers, dropout, an unknown key, a missing size.
        """
        path = Path(directory)
        gguf = open_gguf(path) if is_gguf(path) else None
        path = path if gguf else path / "config.json"
        found = gguf.values if gguf else _config_json.load(path)
        kept = {key: value for key, value in found.items() if key not in ignore}
        try:
            fields = _gguf_config.fields_of(kept, gguf) if gguf else _config_json.fields_of(kept)
            scaling = fields.pop("rope_scaling")
            return cls(rope_scaling=scaling and RopeScaling(**scaling), **fields)
        except ValueError as error:
            raise ValueError(f"{error} (in {path})") from error

    def as_json(self) -> dict:
        """The content of a `config.json` that transformers opens, from version 4.43 on."""
        return _config_json.write(dataclasses.asdict(self))
