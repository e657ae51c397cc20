"""Examples of a dataset, in memory or one at a time, and the description of the dataset."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from mu_jax.data.id_table import IdTable


class Examples(NamedTuple):
    """A split in memory: `inputs` [n, ...], `targets` [n, ...], int32 ids `index` [n].

    Inputs are float32, word codes int32; targets are int32 classes or float32.
    """

    inputs: np.ndarray
    targets: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # the library's word for ids, over tuple.index


class DatasetInfo(NamedTuple):
    """Description of a dataset.

    Attributes:
        name: name of the dataset, for example `cifar10`.
        version: its version, for example `3.0.2`; of a local copy, the version of the reader.
        task: `classification` (int32 targets), `multilabel` (int32 targets of 0 and 1, one column
            a label) or `regression` (float32 targets).
        input_shape: shape of one input; None where it differs between examples.
        num_classes: number of classes or labels, None for a regression.
        split_sizes: number of records of each split.
        target_mean: a regression's `targets * target_scale + target_mean` are in original units.
        target_scale: see `target_mean`.
        num_codes: how many codes there are in inputs of codes (words, clients), else None.
    """

    name: str
    version: str
    task: str
    input_shape: tuple[int | None, ...]
    num_classes: int | None
    split_sizes: dict[str, int]
    target_mean: float = 0.0
    target_scale: float = 1.0
    num_codes: int | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Random access to a split: `source[i]` is `(input, target, id)`, decoded when asked for.

    Made by `source`. It can be pickled (for worker processes) and holds no open file handle of its
    own. `targets`, `index` and the arrays [n] of `attributes` (identities, ages, clients, whatever
    the dataset knows beside inputs and targets) are in memory, so forget requests need no pass over
    the inputs. `ids` is the table of people's ids, where these are no numbers of 32 bits.
    """

    records: Any
    inputs_name: str
    targets: np.ndarray
    index: np.ndarray
    mean: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0
    attributes: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dtype: DTypeLike = np.float32
    ids: IdTable | None = None

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.generic, np.generic]:
        """The float32 input (or int32 codes), the target and the id at a position of the split."""
        position = range(len(self))[position]
        value = np.asarray(self.records[position][self.inputs_name], self.dtype)
        if np.issubdtype(value.dtype, np.floating):
            value = (value - self.mean) / self.scale
        return value, self.targets[position], self.index[position]

    def read(self, name: str = "the split") -> Examples:
        """All examples, of which there must be one, in memory; a refusal names them."""
        first = self[0][0]
        inputs = np.empty((len(self), *first.shape), first.dtype)
        for position in range(len(self)):
            value = self[position][0]
            if value.shape != first.shape:
                raise ValueError(
                    f"expected inputs of one shape in {name!r}, found {first.shape} and "
                    f"{value.shape}; resize them, or read them one by one with source"
                )
            inputs[position] = value
        return Examples(inputs, self.targets, self.index)

    def take(self, rows: Any) -> Source:
        """The examples at positions `rows`, in that order; nothing is read."""
        rows = np.arange(len(self))[rows]
        return dataclasses.replace(
            self,
            records=_Rows(self.records, rows),
            targets=self.targets[rows],
            index=self.index[rows],
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some of the records of a split."""

    records: Any
    rows: np.ndarray

    def __getitem__(self, position: int) -> Any:
        return self.records[int(self.rows[position])]
