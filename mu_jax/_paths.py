"""The one place where the text of a path becomes a path: local, or in a bucket of Google Cloud.

A local path is a `pathlib.Path`, a path in a bucket an `etils.epath.Path`, which orbax and TFDS
take as they are. Every other scheme is refused before anything is made: a path such as
`s3://bucket/runs` would otherwise become a local folder of that name.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
from pathlib import Path

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/|$)")


def absolute(path: str | os.PathLike[str]) -> Path:
    """Absolute form of a path, `~` expanded (orbax fails late on relative ones).

    Args:
        path: a local path, or `gs://bucket/folder`, which needs the extra `cloud`.

    Returns:
        A `pathlib.Path`, or an `etils.epath.Path` of the same methods.

    Raises:
        ValueError: the path has a scheme that cannot be served; nothing was made.

    Example:
        >>> absolute("/data/../runs")
        PosixPath('/runs')
        >>> absolute("s3://bucket/runs")
        Traceback (most recent call last):
        ValueError: expected a local path or gs://bucket/folder, found 's3://bucket/runs'; ...
    """
    text = os.fspath(path)
    if not has_scheme(text):
        return Path(os.path.abspath(os.path.expanduser(text)))
    if not _served():
        raise ValueError(
            f"expected the packages that serve {text!r}, found none installed; run "
            "pip install 'mu_jax[cloud]'"
        )
    return _in_bucket(text)


def has_scheme(text: str) -> bool:
    """Whether the text of a path is one in a bucket, not a local one; any other scheme is refused.

    Raises:
        ValueError: a scheme that cannot be served, or no name of a bucket after `gs://`.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return False
    if scheme[1] != "gs" or not _BUCKET.match(text):
        raise ValueError(
            f"expected a local path or gs://bucket/folder, found {text!r}; mount other stores and "
            "give the path where they are mounted"
        )
    return True


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether an absolute path lies in a bucket: no renames, no locks, but conditional writes."""
    return os.fspath(path).startswith("gs://")


@functools.cache
def _served() -> bool:
    """Whether orbax's metadata (gcsfs) and conditional writes (google-cloud-storage) work here."""
    try:
        names = ("gcsfs", "google.cloud.storage")
        return all(importlib.util.find_spec(name) is not None for name in names)
    except ModuleNotFoundError:
        return False


def _in_bucket(text: str) -> Path:
    import fsspec
    from etils import epath

    # Other processes write to the same bucket: a listing of a moment ago is not the truth.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    bucket, _, name = text.removeprefix("gs://").partition("/")
    name = os.path.normpath("/" + name).strip("/")
    return epath.Path(f"gs://{bucket}/{name}".rstrip("/"))  # type: ignore[return-value]
