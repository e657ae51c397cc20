"""Tokenizers: of a local `tokenizer.json`, and one of bytes that needs no package."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mu_jax import _json
from mu_jax._extras import extra
from mu_jax._gguf import is_gguf, open_gguf
from mu_jax._gguf_tokenizer import tokenizer_files


class Encoded(NamedTuple):
    """Tokens of a text and where they lie in it.

    Attributes:
      tokens: i32[n].
      start, end: i32[n]; token k covers the characters `text[start[k]:end[k]]`.
    """

    tokens: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Tokenizer(Protocol):
    """What rows of tokens are made with; another one needs these names only.

    Attributes:
      size: one more than the largest id.
      begin: id that stands before every text, or None.
      end: id that ends a text, or None.
      pad: id that fills up rows; it is never read.
    """

    @property
    def size(self) -> int:
        """One more than the largest id."""
        ...

    @property
    def begin(self) -> int | None:
        """Id that stands before every text, or None."""
        ...

    @property
    def end(self) -> int | None:
        """Id that ends a text, or None."""
        ...

    @property
    def pad(self) -> int:
        """Id that fills up rows."""
        ...

    def encode(self, text: str) -> Encoded:
        """The tokens of a text, without those that stand before and behind it."""
        ...

    def decode(self, tokens: Any) -> str:
        """The text of some tokens."""
        ...

    def token_id(self, token: str) -> int | None:
        """The id of one token by its name, such as `<|im_end|>`; None if there is none."""
        ...


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """Bytes of UTF-8 as ids 0 to 255, for demonstrations and tests; begin is 256 and end 257.

    Example:
      >>> bytes_of = ByteTokenizer()
      >>> encoded = bytes_of.encode("aß")
      >>> encoded.tokens.tolist(), encoded.start.tolist(), encoded.end.tolist()
      ([97, 195, 159], [0, 1, 1], [1, 2, 2])
      >>> bytes_of.decode([256, 97, 195, 159, 257])
      'aß'
    """

    size: int = dataclasses.field(default=258, init=False)
    begin: int = dataclasses.field(default=256, init=False)
    end: int = dataclasses.field(default=257, init=False)
    pad: int = dataclasses.field(default=257, init=False)

    def encode(self, text: str) -> Encoded:
        """The bytes of a text; those of one character cover the same character."""
        pieces = [character.encode() for character in text]
        start = np.repeat(np.arange(len(text)), [len(piece) for piece in pieces])
        tokens = np.frombuffer(b"".join(pieces), np.uint8).astype(np.int32)
        return Encoded(tokens, start.astype(np.int32), start.astype(np.int32) + 1)

    def decode(self, tokens: Any) -> str:
        """The text of some ids; what is no byte is left out, and no character becomes U+FFFD."""
        ids = np.asarray(tokens)
        return bytes(ids[(ids >= 0) & (ids < 256)].astype(np.uint8)).decode("utf-8", "replace")

    def token_id(self, token: str) -> int | None:
        """None: bytes have no names."""
        return None


@dataclasses.dataclass(frozen=True)
class FileTokenizer:
    """The tokenizer of a `tokenizer.json`, made by `read_tokenizer`; see `Tokenizer`.

    A text that spells a special token, such as `</s>`, has this token, as in transformers.
    """

    size: int
    begin: int | None
    end: int | None
    pad: int
    inner: Any = dataclasses.field(repr=False)

    def encode(self, text: str) -> Encoded:
        """The tokens of a text, without those that stand before and behind it."""
        found = self.inner.encode(text, add_special_tokens=False)
        offsets = np.array(found.offsets, np.int32).reshape(-1, 2)
        return Encoded(np.array(found.ids, np.int32), offsets[:, 0], offsets[:, 1])

    def decode(self, tokens: Any) -> str:
        """The text of some tokens, special ones left out."""
        return self.inner.decode([int(token) for token in tokens])

    def token_id(self, token: str) -> int | None:
        """The id of one token by its name; None if there is none."""
        return self.inner.token_to_id(token)


def read_tokenizer(
    directory: str | os.PathLike[str], *, vocab_size: int | None = None
) -> FileTokenizer:
    """The tokenizer of a local directory or GGUF file, as people download it; nothing is fetched.

    Begin, end and padding are those that `tokenizer_config.json` names, else those of
    `config.json`; a text has a begin token where `add_bos_token` or the tokenizer itself says so.
    Where no padding token is named, the end token fills up rows, which nothing reads.

    A file `*.gguf` has all of them inside; a byte-level BPE is read from there, of GPT 2, Llama 3,
    Qwen 2 and SmolLM.

    Args:
      directory: where `tokenizer.json` lies, or a GGUF file.
      vocab_size: of the model, such as `decoder.config.vocab_size`; default: that in `config.json`,
        if there is one.

    Raises:
      FileNotFoundError: no `tokenizer.json`, or no such file.
      ValueError: a damaged file; a tokenizer with more tokens than the model; a special token that
        the tokenizer lacks; another kind of tokenizer in a GGUF file.

    Cost: reads the file.
    """
    root = Path(directory)
    if is_gguf(root):
        return _of_gguf(root, vocab_size)
    path = root / "tokenizer.json"
    inner = _read_inner(path)
    model, config = read_json(root / "config.json"), read_json(root / "tokenizer_config.json")
    return _of_parts(path, inner, model, config, vocab_size)


def _of_gguf(path: Path, vocab_size: int | None) -> FileTokenizer:
    files = tokenizer_files(open_gguf(path))
    with extra("gguf"):
        import tokenizers

    inner = tokenizers.Tokenizer.from_str(files["tokenizer.json"])
    return _of_parts(path, inner, {}, _json.parse(files["tokenizer_config.json"]), vocab_size)


def _of_parts(
    path: Path, inner: Any, model: dict[str, Any], config: dict[str, Any], vocab_size: int | None
) -> FileTokenizer:
    size = 1 + max(inner.get_vocab(with_added_tokens=True).values(), default=-1)
    most = model.get("vocab_size") if vocab_size is None else vocab_size
    if most is not None and size > most:
        raise ValueError(
            f"expected a tokenizer of at most {most} tokens, as many as the model has, found "
            f"{size} in {path}: use the tokenizer of this model"
        )
    named = {name: _special(path, inner, config, model, name) for name in ("bos", "eos", "pad")}
    pad = next((x for x in (named["pad"], named["eos"]) if x is not None), 0)
    begin = named["bos"] if _adds_begin(inner, config, named["bos"]) else None
    return FileTokenizer(size, begin, named["eos"], pad, inner)


def require_end(tokenizer: Tokenizer) -> int:
    """The end token; refuses a tokenizer without one."""
    if tokenizer.end is None:
        raise ValueError(
            "expected a tokenizer with an end token, found none: name eos_token in "
            "tokenizer_config.json, or make rows without it"
        )
    return tokenizer.end


def require_tokens(tokenizer: Tokenizer, names: Sequence[str]) -> None:
    """Refuse a tokenizer that lacks special tokens of a template."""
    missing = [name for name in names if tokenizer.token_id(name) is None]
    if missing:
        raise ValueError(
            f"expected a tokenizer with the tokens {', '.join(names)} of the template, found none "
            f"for {', '.join(missing)}: use the tokenizer and the template of one model"
        )


def _read_inner(path: Path) -> Any:
    with extra("lm"):
        import tokenizers

    if not path.is_file():
        raise FileNotFoundError(
            f"expected a tokenizer at {path}, found no such file: put the model's tokenizer.json "
            "there"
        )
    try:
        inner = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise ValueError(
            f"expected a tokenizer in {path}, found another or a damaged file "
            f"({' '.join(str(error).split())[:120]}): copy it again"
        ) from error
    inner.no_truncation()
    inner.no_padding()
    return inner


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        found = _json.parse(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"expected JSON in {path}, found a damaged file ({error}): copy it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"expected an object in {path}, found a {type(found).__name__}: copy it")
    return found


def _special(
    path: Path, inner: Any, config: dict[str, Any], model: dict[str, Any], name: str
) -> int | None:
    """The id of a special token, which the tokenizer must know."""
    if f"{name}_token" in config:
        token = config[f"{name}_token"]
        token = token.get("content") if isinstance(token, dict) else token
        found = None if token is None else inner.token_to_id(token)
        where = "tokenizer_config.json"
    else:
        token = model.get(f"{name}_token_id")
        token = token[0] if isinstance(token, list) and token else token
        known = isinstance(token, int) and inner.id_to_token(token) is not None
        found, where = token if known else None, "config.json"
    if token is not None and found is None:
        raise ValueError(
            f"expected the {name}_token {token!r} of {where} in the tokenizer, found no such "
            f"token in {path}: use both files of one model"
        )
    return found


def _adds_begin(inner: Any, config: dict[str, Any], begin: int | None) -> bool:
    if begin is None or isinstance(config.get("add_bos_token"), bool):
        return bool(begin is not None and config.get("add_bos_token"))
    return inner.encode("", add_special_tokens=True).ids[:1] == [begin]
