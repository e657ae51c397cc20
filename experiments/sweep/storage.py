"""Where the studies of a search lie: SQLite in the working directory, or a database server."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from experiments.lib.paths import check_storage

try:
    import optuna
    from sqlalchemy.exc import SQLAlchemyError
except ImportError as error:
    raise ValueError(
        f"expected Optuna, found none ({error}); install it with pip install -e '.[sweep]'"
    ) from None

_BUSY_S = 120  # how long a process waits for others that write to the same SQLite file
_TRIES = 5


def open_storage(workdir: pathlib.Path, url: str | None) -> optuna.storages.RDBStorage:
    """The storage of a search, made if it is not there; any number of processes may do so at once.

    Args:
      workdir: holds `studies.db` unless there is a `url`.
      url: of a database that all machines reach, as SQLAlchemy writes it.

    Raises:
      ValueError: a database that cannot be reached or is none; SQLite with a bucket.
    """
    check_storage(workdir, url)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options: dict[str, Any] = {}
    if url is None:
        workdir.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{(workdir / 'studies.db').absolute()}"
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": _BUSY_S}}
    for number in range(_TRIES):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=options)
        except ImportError:
            raise ValueError(
                f"expected a driver for {url.partition(':')[0]}, found none; for PostgreSQL it is "
                "installed with pip install 'psycopg[binary]'"
            ) from None
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            # Of two processes that make the tables at once, one finds that they are there.
            if number + 1 == _TRIES:
                words = " ".join(str(error).split())
                raise ValueError(
                    f"expected a database for --storage, found {words[:300]}; see docs/sweeps.md"
                ) from None
            time.sleep(0.2 * (number + 1))
    raise AssertionError("unreachable")
