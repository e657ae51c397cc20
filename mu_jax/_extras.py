"""Optional packages: a sentence that names the extra where one is missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Import optional packages in this block, which `pip install 'mu_jax[name]'` brings.

    Raises:
      ModuleNotFoundError: with the command that installs the missing package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "mu_jax").startswith("mu_jax"):
            raise
        raise ModuleNotFoundError(
            f"expected the package {error.name!r}, found none installed: run "
            f"pip install 'mu_jax[{name}]'",
            name=error.name,
        ) from error
