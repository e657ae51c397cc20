"""Where prepared datasets lie on disk, and how the built-in ones get there."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mu_jax import _files as files
from mu_jax._extras import extra
from mu_jax.data.id_table import IdTable

# Names that need no preparation by somebody else.
_BUILT_IN = ("digits", "digits_regression", "diabetes")
_LOCAL = ("agedb", "electricity", "fashion_mnist", "mucac", "mufac", "sts_b", "sts_b_glove")


def data_root(data_dir: str | os.PathLike[str] | None) -> Path:
    """Where datasets lie."""
    default = os.environ.get("MU_JAX_DATA_DIR") or "~/.cache/mu_jax"
    return files.absolute(data_dir or default)


def id_file(split: str) -> str:
    """The file beside the records that holds the table of people's ids."""
    return f"ids-{split}.csv"


def open_builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    """The read-only TFDS builder of a dataset; makes a built-in dataset where it is missing."""
    with extra("datasets"):
        import tensorflow_datasets as tfds

    root = data_root(data_dir)
    builder_class = _builder_class(name)
    folder = _find(name, root) if builder_class is None else _prepared(builder_class, root)
    try:
        return tfds.builder_from_directory(folder, file_format="array_record")
    except ValueError as error:
        if "File format" not in str(error):
            raise
        found = tfds.builder_from_directory(folder).info.file_format
        raise ValueError(
            f"expected a dataset prepared as array_record in {folder}, found "
            f"{found.value if found else 'no file format'}; prepare it again with "
            "file_format='array_record'"
        ) from error


def _builder_class(name: str) -> Any:
    # Imported on demand: defining a TFDS builder imports TFDS.
    if name == "digits":
        from mu_jax.datasets.digits import MuDigits

        return MuDigits
    if name == "diabetes":
        from mu_jax.datasets.diabetes import MuDiabetes

        return MuDiabetes
    return None


def _find(name: str, root: Path) -> Path:
    """The folder of `name` or of its newest version."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"expected a folder of prepared datasets, found none at {root}; "
            "pass data_dir or set MU_JAX_DATA_DIR"
        )
    if _is_complete(root / name):
        return root / name
    candidates = (root / name).glob("*.*.*")
    versions = [p for p in candidates if re.fullmatch(r"(\d+\.){2}\d+", p.name) and _is_complete(p)]
    if versions:
        return max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
    known = [*_BUILT_IN, *_LOCAL, *sorted(p.name for p in root.iterdir() if _holds_dataset(p))]
    raise FileNotFoundError(
        f"expected one of the datasets {', '.join(known)}, found {name!r}; "
        f"prepare it with TFDS as array_record under {root}"
    )


def put(builder_class: Any, root: Path, tables: Mapping[str, IdTable]) -> Path:
    """Prepare a new dataset under `root`, with tables of ids beside it; its folder.

    Raises:
        FileExistsError: there is one of this name and version.
    """
    folder = root / builder_class.name / str(builder_class.VERSION)
    if files.in_bucket(root):
        raise ValueError(
            f"expected a folder on a disk to prepare a dataset in, found {root}; prepare it on a "
            "disk and copy it there"
        )
    if folder.exists():
        raise FileExistsError(
            f"expected no dataset at {folder} yet, found one; give another name or version"
        )
    return _prepare(builder_class, root, folder, tables)


def _prepared(builder_class: Any, root: Path) -> Path:
    """The folder of a built-in dataset, made in a scratch folder and renamed when complete."""
    folder = root / builder_class.name / str(builder_class.VERSION)
    if _is_complete(folder):
        return folder
    if files.in_bucket(root):
        raise FileNotFoundError(
            f"expected the dataset {builder_class.name!r} in {root}, found none, and only a folder "
            "on a disk is filled on demand; copy it there, or pass another data_dir"
        )
    return _prepare(builder_class, root, folder, {})


def _prepare(builder_class: Any, root: Path, folder: Path, tables: Mapping[str, IdTable]) -> Path:
    with _scratch_folder(root) as scratch:
        builder = builder_class(data_dir=scratch, file_format="array_record")
        with _silence():
            builder.download_and_prepare()
        for name, table in tables.items():
            table.save(Path(builder.data_dir) / name)
        folder.parent.mkdir(exist_ok=True)
        try:
            os.rename(builder.data_dir, folder)
        except OSError as error:
            # Another process may have been first; its copy is as good as this one.
            if tables or not _is_complete(folder):
                found = "another one" if _is_complete(folder) else "an incomplete folder; delete it"
                raise FileExistsError(
                    f"expected a complete dataset or nothing at {folder}, found {found}"
                ) from error
    return folder


@contextlib.contextmanager
def _scratch_folder(root: Path) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        yield _entered(stack, root)


def _entered(stack: contextlib.ExitStack, root: Path) -> Path:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return stack.enter_context(files.working_folder(root, ".preparing-"))
    except OSError as error:
        raise type(error)(
            f"expected a folder that can be written to, found {root} ({error.strerror}); "
            "pass another data_dir or set MU_JAX_DATA_DIR"
        ) from error


@contextlib.contextmanager
def _silence() -> Any:
    """Keeps TFDS from reporting the progress of a fifth of a second on both streams."""
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _is_complete(folder: Path) -> bool:
    return (folder / "dataset_info.json").is_file() and (folder / "features.json").is_file()


def _holds_dataset(folder: Path) -> bool:
    return any(folder.glob("*/dataset_info.json")) or any(folder.glob("*/*/dataset_info.json"))
