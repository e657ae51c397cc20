"""Templates: turns of a chat, or a question with its answer, as one text with scored parts."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mu_jax import _json
from mu_jax._extras import extra
from mu_jax._gguf import is_gguf, open_gguf
from mu_jax._gguf_tokenizer import tokenizer_files
from mu_jax.datasets.language.tokenizer import read_json

Span = tuple[int, int]
Message = Mapping[str, str]


class Script(NamedTuple):
    """A text, and what of it is scored.

    Attributes:
      text: all characters.
      scored: ranges `[start, end)` of characters that are scored.
      turns: where the content of each message stands, None where the template changed it.
      ends: places in the text at which a scored end token stands.
      begin: whether the begin token stands before it.
    """

    text: str
    scored: tuple[Span, ...]
    turns: tuple[Span | None, ...]
    ends: tuple[int, ...]
    begin: bool = True


class Template(Protocol):
    """How messages become one text; another one needs these two names only.

    Attributes:
      tokens: names of special tokens that the tokenizer must have.
    """

    @property
    def tokens(self) -> tuple[str, ...]:
        """Names of special tokens that the tokenizer must have."""
        ...

    def script(self, messages: Sequence[Message]) -> Script:
        """The text of messages, each with a `role` and its `content`."""
        ...


@dataclasses.dataclass(frozen=True)
class RoleTemplate:
    """Text before and behind every message, by its role.

    The assistant's turns are scored: the content, and the end token behind each (`end_token`), or
    else the marker that `after` holds, up to its last visible character.

    Attributes:
      before, after: text by role, such as `{"user": "Question: "}`; nothing for a role that is not
        named in `after`. A role that is not named in `before` is refused.
      end_token: whether the tokenizer's end token stands behind every turn of the assistant. What
        `after` holds then stands between turns only.
      begin: whether the tokenizer's begin token stands before the text, if there is one.
      tokens: names of special tokens that the texts spell, which the tokenizer must have.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    end_token: bool = True
    begin: bool = True
    tokens: tuple[str, ...] = ()

    def script(self, messages: Sequence[Message]) -> Script:
        """The text of messages, of which the assistant's turns are scored.

        Example:
          >>> found = PLAIN.script([
          ...     {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}])
          >>> found.text, found.scored, found.ends
          ('Question: Where?\\nAnswer: Here.', ((25, 30),), (30,))
        """
        text, scored, turns, ends = "", [], [], []
        for message in messages:
            role, content = message["role"], message["content"]
            if role not in self.before:
                raise ValueError(
                    f"expected a role among {', '.join(self.before)}, found {role!r}: give the "
                    "template this role"
                )
            text += self.before[role]
            start, behind = len(text), self.after.get(role, "")
            turns.append((start, start + len(content)))
            text += content
            if role == "assistant":
                marker = "" if self.end_token else behind.rstrip()
                scored.append((start, len(text) + len(marker)))
                ends += [len(text)] * self.end_token
            text += behind
        if self.end_token and ends:
            text = text[: ends[-1]]
        return Script(text, tuple(scored), tuple(turns), tuple(ends), self.begin)


PLAIN = RoleTemplate(
    before={"system": "", "user": "Question: ", "assistant": "Answer: "},
    after={"system": "\n\n", "user": "\n", "assistant": "\n\n"},
)
CHATML = RoleTemplate(
    before={role: f"<|im_start|>{role}\n" for role in ("system", "user", "assistant", "tool")},
    after=dict.fromkeys(("system", "user", "assistant", "tool"), "<|im_end|>\n"),
    end_token=False,
    tokens=("<|im_start|>", "<|im_end|>"),
)


@dataclasses.dataclass(frozen=True)
class JinjaTemplate:
    """A chat template in Jinja, as models are distributed with; made by `read_chat_template`.

    The assistant's turns are scored: what the template writes for a turn behind the prompt to
    answer, up to its last visible character, so with its end marker. A template that writes a turn
    otherwise once others follow is refused for such chats. Templates run in a sandbox and are not
    told the date.

    Attributes:
      source: the template.
      named: texts of special tokens that it uses, such as `{"bos_token": "<s>"}`.
      tokens: names of special tokens that the tokenizer must have.
    """

    source: str
    named: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokens: tuple[str, ...] = ()

    def script(self, messages: Sequence[Message]) -> Script:
        """The text of messages, of which the assistant's turns are scored.

        Raises:
          ValueError: a template that refuses these messages, or changes turns afterwards.
        """
        text, scored = self._render(messages), []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:place], add_generation_prompt=True)
            turn = self._render(messages[: place + 1])
            if not (turn.startswith(prompt) and text.startswith(turn)):
                raise ValueError(
                    f"expected a chat template that keeps turns as they were, found other text "
                    f"for message {place}: score single turns, or give a RoleTemplate"
                )
            scored.append((len(prompt), max(len(prompt), len(turn.rstrip()))))
        spans = iter(scored)
        turns = tuple(
            _inside(text, m["content"], next(spans)) if m["role"] == "assistant" else None
            for m in messages
        )
        return Script(text, tuple(scored), turns, (), begin=False)

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        with extra("lm"):
            import jinja2

        try:
            return _compiled(self.source).render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self.named,
            )
        except (jinja2.TemplateError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected messages that the chat template takes, found its refusal "
                f"{' '.join(str(error).split())[:120]!r}: mend the messages, or give a RoleTemplate"
            ) from error


def read_chat_template(directory: str | os.PathLike[str]) -> JinjaTemplate:
    """The chat template of a local directory: `chat_template.jinja`, or in `tokenizer_config.json`.

    Of a file `*.gguf`: the one inside.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a damaged file, or a template that cannot be read.
    """
    root = Path(directory)
    file, path = root / "chat_template.jinja", root / "tokenizer_config.json"
    inside = tokenizer_files(open_gguf(root)) if is_gguf(root) else None
    config = _json.parse(inside[path.name]) if inside else read_json(path)
    source = file.read_text("utf-8") if file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several by name
        source = {each["name"]: each["template"] for each in source}.get("default")
    if source is None:
        raise FileNotFoundError(
            f"expected a chat template in {root}, found neither chat_template.jinja nor one in "
            "tokenizer_config.json: give a RoleTemplate, such as PLAIN or CHATML"
        )
    named: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        named |= {} if token is None else {name: token}
    _compiled(source)
    return JinjaTemplate(source, named, tuple(dict.fromkeys(named.values())))


@functools.lru_cache(maxsize=16)
def _compiled(source: str) -> Any:
    with extra("lm"):
        import jinja2
        import jinja2.ext
        import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """Marks around turns of the assistant, which are found without them."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise ValueError(
            f"expected a chat template in Jinja, found one that cannot be read ({error}): copy it "
            "again"
        ) from error


def _inside(text: str, content: str, span: Span) -> Span | None:
    """Where the content of a turn stands in it; None if the template changed it."""
    start = text.find(content, *span)
    return (start, start + len(content)) if start >= 0 else None
