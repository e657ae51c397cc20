"""A reader that follows the serving version of a store while it answers."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from mu_jax.data.checks import check_range
from mu_jax.store.leaves import PyTree

_LOG = logging.getLogger(__name__)
_TRIES = 5  # a reader that swaps and a `prune` overtake looks again at once
_AGAIN = 60.0  # seconds until a version that was refused is read once more
_PATIENCE = 10.0  # seconds for which the end of the block waits for a version that is being read
_LONGEST = 500  # characters of a reason


class Versions(Protocol):
    """What is watched, a `Store`."""

    directory: Path

    def serving(self) -> int | None:
        """The version that serves."""

    def restore(self, version: int | None = None, *, like: PyTree) -> PyTree:
        """The variables of a version, checked."""


class Served(NamedTuple):
    """One version, whole: its number, and its variables."""

    version: int
    variables: PyTree


class Refused(NamedTuple):
    """A version that should serve and is not taken up, and why; None where that is not known."""

    version: int | None
    reason: str


class Watch:
    """What a store serves, in a running process: `current` never waits, and is never mixed.

    A thread looks at the pointer of the store every few seconds. Where another version serves, by a
    swap or a roll-back, the thread restores it beside the old one, checks it against the digests
    that were published, waits until its arrays are on their devices, and only then replaces one
    reference. So a reader has the old version or the new one, whole:

        with store.watch(like=variables) as watch:
            for request in requests:
                served = watch.current()              # once for each answer
                answer(predict(served.variables, request), served.version)

    Take `current()` once for each answer, and hold it while the answer is computed: two calls may
    give two versions. Never donate the variables. A function under `jit` compiles once, since all
    versions have the shapes, dtypes and shardings of `like`.

    A version that cannot be taken up never serves: a damaged one, one of another architecture, one
    that is gone. The old one then goes on, `refused` says why, and so does the log, once. A store
    that cannot be reached, or whose pointer is damaged, is looked at again.

    Args:
      store: the store, on a disk or in a bucket.
      like: as for `Store.restore`: variables, or `jax.ShapeDtypeStruct`s with shardings of the mesh
        of this process.
      every: seconds between two looks.

    Raises:
      FileNotFoundError, Damaged, ValueError: nothing serves, or what serves cannot be restored;
        only when it begins, where there is no older version to go on with.

    Cost: memory of two versions while one replaces another, until the last answer from the old one
    is there; reads a small file at each look, and the files of a new version twice. Of several
    hosts with one mesh each restores with the others: call `Store.restore` there, together.

    Example:
      >>> import tempfile, jax.numpy as jnp, mu_jax as mu
      >>> directory = tempfile.TemporaryDirectory()
      >>> store = mu.store.Store(directory.name)
      >>> trained = {"w": jnp.ones(2)}
      >>> store.swap(store.publish(trained, method="train"))
      >>> with store.watch(like=trained, every=0.01) as watch:
      ...     before = watch.current()
      ...     store.swap(store.publish({"w": jnp.zeros(2)}, parent=1, method="ssd"))
      ...     after = watch.look()                  # at once; the thread would have come, too
      >>> before.version, after.version, after.variables["w"].tolist(), watch.refused
      (1, 2, [0.0, 0.0], None)
      >>> directory.cleanup()
    """

    def __init__(self, store: Versions, *, like: PyTree, every: float = 1.0) -> None:
        check_range(0.001, every=every)
        if jax.process_count() > 1:
            raise ValueError(
                f"expected one process, found {jax.process_count()}: restore a version by all of "
                "them together, with Store.restore, at a step on which they agree"
            )
        self._store, self._like, self._every = store, jax.tree.map(_outline, like), every
        config: Any = jax.config  # a thread has its own of these
        self._wide, self._device = config.jax_enable_x64, config.jax_default_device
        self._looking, self._ending = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._refused: Refused | None = None
        self._look_again = 0.0
        self._said: tuple[int | None, type[Exception]] = (0, Exception)
        self._current = self._newest(None)

    def __repr__(self) -> str:
        return f"Watch({self._store!r}, version={self._current.version})"

    def __enter__(self) -> Watch:
        self._ending.clear()
        self._thread = threading.Thread(target=self._follow, name=repr(self._store), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)  # it ends with the process, if a read hangs

    def current(self) -> Served:
        """The version to answer with; takes no lock and reads no file."""
        return self._current

    @property
    def refused(self) -> Refused | None:
        """The version that should serve and does not; None where `current` is what should."""
        return self._refused

    def look(self) -> Served:
        """Look at the store now, in this thread, and return what is current then."""
        with self._looking:
            try:
                self._current, refused = self._newest(self._current), None
            except Exception as error:  # whatever it is, the old version goes on
                refused = Refused(self._serving(), _sentence(error))
                self._look_again = _after(error)
                kind = refused.version, type(error)
                if self._refused is None or kind != self._said:
                    _LOG.warning("version %d goes on: %s", self._current.version, refused.reason)
                self._said = kind
            self._refused = refused
            return self._current

    def _follow(self) -> None:
        while not self._ending.wait(self._every):
            if not self._is_given_up():
                self.look()

    def _is_given_up(self) -> bool:
        """Whether what serves was refused, and files that are as large as the model lie still."""
        refused = self._refused
        if refused is None or refused.version is None or time.monotonic() > self._look_again:
            return False
        return self._serving() == refused.version

    def _newest(self, current: Served | None) -> Served:
        """What serves now: the current version, or another one, restored and checked."""
        for _ in range(_TRIES):
            version = self._store.serving()
            if version is None:
                raise FileNotFoundError(
                    f"expected a version that serves in {self._store.directory}, found none; call "
                    "swap with the version that shall serve"
                )
            if current is not None and version == current.version:
                return current
            try:
                with jax.enable_x64(self._wide), jax.default_device(self._device):
                    variables = self._store.restore(version, like=self._like)
                return Served(version, jax.block_until_ready(variables))
            except (OSError, ValueError) as error:  # gone, or half of it, if a `prune` came between
                failure = error
                if version == self._store.serving():
                    break
        raise failure

    def _serving(self) -> int | None:
        try:
            return self._store.serving()
        except (OSError, ValueError):
            return None


def _outline(leaf: Any) -> Any:
    """A leaf of `like` without its numbers, so that no third copy of a model is kept."""
    if isinstance(leaf, jax.Array):
        sharding = leaf.sharding if leaf.committed else None
        weak = getattr(leaf, "weak_type", False)  # keys have none
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)
    if isinstance(leaf, np.ndarray):
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
    return leaf


def _after(error: Exception) -> float:
    """When to look again at a version that was refused: at once where the store was not reached."""
    is_passing = isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    return time.monotonic() + (0.0 if is_passing else _AGAIN)


def _sentence(error: Exception) -> str:
    """One line; of what another library says, which may be pages, the beginning."""
    words = " ".join(str(error).split())
    if isinstance(error, ValueError | OSError) and len(words) < _LONGEST:
        return words
    return f"expected to restore it, found {type(error).__name__}: {words[:_LONGEST]}"
