"""Counting what JAX compiles."""

from __future__ import annotations

import contextlib

import jax


@contextlib.contextmanager
def counted_compilations():
    compilations = []

    def listen(event, duration, **_):
        del duration
        if event.endswith("backend_compile_duration"):
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
