"""Whether a path can be used, known before anything is computed."""

from __future__ import annotations

import errno
import os
import pathlib
import tempfile

from mu_jax._paths import absolute, in_bucket


def check_workdir(
    path: str | os.PathLike[str], *, files: tuple[str, ...] = (), folders: tuple[str, ...] = ()
) -> pathlib.Path:
    """The path of a working directory, refused now rather than after an hour of computing.

    Nothing is made.

    Args:
      path: the directory, which need not be there.
      files, folders: names in it that will be written; what is there must be of that kind.

    Raises:
      ValueError: an empty path.
      OSError: a directory that cannot be made or written, or a name in it that is taken.
    """
    if not os.fspath(path):
        raise ValueError("expected a path for --workdir, found an empty one; name a folder")
    path = working_directory(path)
    if in_bucket(path):
        return path
    _check_folder(path)
    for name in folders:
        _check_folder(path / name)
    for name in files:
        check_file(path / name)
    return path


def working_directory(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a working directory: as it is, or an `etils.epath.Path` in a bucket.

    Raises:
      ValueError: a scheme that cannot be served.
    """
    whole = absolute(path)
    return whole if in_bucket(whole) else pathlib.Path(path)


def check_storage(path: str | os.PathLike[str], storage: str | None) -> None:
    """Refuse a search in SQLite whose working directory is a bucket; other machines write there.

    Args:
      path: the working directory.
      storage: the database as SQLAlchemy writes it; None for SQLite in the working directory.

    Raises:
      ValueError: SQLite and a bucket.
    """
    if in_bucket(path) and (storage or "sqlite").startswith("sqlite"):
        raise ValueError(
            f"expected a database server for a search with --workdir={os.fspath(path)}, found "
            "SQLite, which needs a local file; add --storage=postgresql://USER@HOST/NAME, or name "
            "a folder of this machine"
        )


def check_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """The path of a file that will be written, refused now if it cannot be.

    Raises:
      OSError: a folder of this name, a folder above that cannot be made or written, no permission.
    """
    path = working_directory(path)
    if in_bucket(path):
        return path
    if _there(path) and path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if _there(path) and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "no permission to write", str(path))
    _check_folder(path.parent)
    return path


def _check_folder(path: pathlib.Path) -> None:
    """Refuse a folder that is there and cannot be written, or that cannot be made."""
    whole = pathlib.Path(os.path.abspath(path))
    found = next(each for each in (whole, *whole.parents) if _there(each))
    if not found.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "not a directory", str(path))
    try:
        tempfile.TemporaryFile(dir=found).close()  # only a try tells: root has all permissions
    except OSError as error:
        number = errno.EACCES if error.errno == errno.ENOENT else error.errno
        raise OSError(number, f"no way to write in {found}", str(path)) from error


def _there(path: pathlib.Path) -> bool:
    """Whether something has this name, a broken link included; OSError for an impossible name."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
