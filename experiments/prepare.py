"""Write anybody's data as a dataset that the binaries read, with the ids that people have.

    python -m experiments.prepare --name=people --train=people.csv --test=others.csv \\
        --inputs=age,height --target=sick --ids=person_id --subjects=clinic
    python -m experiments.prepare --name=pets --train=pets/train --test=pets/test --ids=path \\
        --side=64
    python -m experiments.prepare --name=birds --train=saved/train --ids=key \\
        --inputs=image --target=label
    python -m experiments.prepare --name=mnist --train=images.gz,labels.gz --ids=position

A split is a CSV or Parquet file; a folder of images, CLASS/NAME.png; a folder that save_to_disk of
Hugging Face's datasets wrote; a pair of IDX files, images and labels; or a pair of .npy files,
inputs and targets. --ids says how the id of a row is found: a column, `path` for images, or
`position`, which holds only as long as no row is added, dropped or moved. Then

    python -m experiments.train --workdir=runs/people --config.dataset=people ...
    python -m experiments.unlearn --workdir=runs/people --request=clinic:c_17

Rows that are gone since a model was trained leave the numbers of all others as they were with
--keep=runs/people/store/ids-....csv. Other data, such as a torch loader or tf.data, are prepared
in Python by mu_jax.datasets.prepare.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
from absl import flags

from experiments.lib.command_line import start
from experiments.lib.running import exit_with_sentence
from mu_jax import datasets
from mu_jax.data.id_table import load_id_table
from mu_jax.datasets import Rows

FLAGS = flags.FlagValues()
NAME = flags.DEFINE_string("name", None, "Of the dataset.", required=True, flag_values=FLAGS)
TRAIN = flags.DEFINE_string(
    "train", None, "The training data, as above.", required=True, flag_values=FLAGS
)
TEST = flags.DEFINE_string("test", None, "The test data, likewise.", flag_values=FLAGS)
IDS = flags.DEFINE_string(
    "ids", None, "Column of the ids, path, or position.", required=True, flag_values=FLAGS
)
INPUTS = flags.DEFINE_list(
    "inputs", None, "Columns of the inputs; several are one vector.", flag_values=FLAGS
)
TARGET = flags.DEFINE_string("target", None, "Column of the target.", flag_values=FLAGS)
SUBJECTS = flags.DEFINE_list(
    "subjects", [], "Columns of the training data that say who owns a row.", flag_values=FLAGS
)
SIDE = flags.DEFINE_integer(
    "side", None, "Side to which images of a folder are resized.", lower_bound=1, flag_values=FLAGS
)
KEEP = flags.DEFINE_string(
    "keep", None, "Table of ids whose numbers the training data keep.", flag_values=FLAGS
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where datasets lie; default as for training.", flag_values=FLAGS
)
VERSION = flags.DEFINE_string("version", "1.0.0", "Of the dataset.", flag_values=FLAGS)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run()


def run() -> None:
    splits = {"train": read(TRAIN.value, {name: name for name in SUBJECTS.value})}
    if KEEP.value is not None:
        splits["train"] = splits["train"].numbered_by(load_id_table(KEEP.value))
    if TEST.value is not None:
        splits["test"] = read(TEST.value, {})
    folder = datasets.prepare(NAME.value, splits, data_dir=DATA_DIR.value, version=VERSION.value)
    for split, rows in splits.items():
        print(f"{split}: {len(rows)} rows, {rows.ids!r}")
    print(f"Prepared {folder}")
    where = "" if DATA_DIR.value is None else f" --config.data_dir={DATA_DIR.value}"
    print(
        f"Next: python -m experiments.train --workdir=runs/{NAME.value} "
        f"--config.dataset={NAME.value}{where}"
    )


def read(where: str, subjects: dict[str, str]) -> Rows:
    """The rows of one split, by the kind of file or folder."""
    ids: Any = datasets.by_position if IDS.value == "position" else IDS.value
    names = where.split(",")
    if len(names) == 2:
        return _pair(names, ids, subjects)
    path = pathlib.Path(where)
    if path.is_dir() and not any(path.glob("state.json")) and not any(path.glob("*/state.json")):
        if SIDE.value is None:
            raise ValueError(
                f"expected --side for the folder of images {where}, found none; give the side to "
                "which images are resized"
            )
        return datasets.from_image_folder(path, side=SIDE.value, ids=ids, subjects=subjects)
    if INPUTS.value is None or TARGET.value is None:
        raise ValueError(
            f"expected --inputs and --target for {where}, found none; name columns of it"
        )
    inputs: Any = INPUTS.value if len(INPUTS.value) > 1 else _one(INPUTS.value[0], path)
    columns = {"inputs": inputs, "target": TARGET.value, "ids": ids, "subjects": subjects}
    if path.is_dir():
        return datasets.from_hugging_face(path, **columns)
    return datasets.from_table(path, **columns)


def _one(column: str, path: pathlib.Path) -> Any:
    """One column of a file is a vector of one number; of a folder, whatever it holds."""
    return column if path.is_dir() or path.suffix.lower() in (".parquet", ".pq") else [column]


def _pair(names: list[str], ids: Any, subjects: dict[str, str]) -> Rows:
    if ids is not datasets.by_position or subjects:
        raise ValueError(
            f"expected --ids=position and no --subjects for two files of arrays, found --ids="
            f"{IDS.value}; prepare rows with ids in Python, mu_jax.datasets.from_arrays"
        )
    if all(name.endswith(".npy") for name in names):
        inputs, targets = (np.load(name, mmap_mode="r", allow_pickle=False) for name in names)
        return datasets.from_arrays(inputs, targets, ids=ids)
    return datasets.from_idx(*names, ids=ids)


if __name__ == "__main__":
    start(main, FLAGS)
