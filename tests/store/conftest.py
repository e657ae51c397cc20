from __future__ import annotations

import itertools
from collections.abc import Iterator

import buckets
import pytest

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    with buckets.served() as address:
        yield address


@pytest.fixture
def bucket(object_store: str) -> str:
    """A folder in the bucket that no other test uses."""
    return f"gs://bucket/{next(_NUMBERS)}"
