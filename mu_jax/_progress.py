"""How far long work is: one line on stderr, rewritten on a terminal, one a minute elsewhere.

Whatever takes long says so, by `work` or `each`, and knows nothing of who looks. Nothing is shown
unless `mu.progress` has switched it on for the block that runs. A thread looks at the work twice a
second; the work itself adds to a number, so that being watched costs nothing that can be measured.
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")
PULSE = 0.5  # seconds between two looks
LINE = 60.0  # seconds between two lines where there is no terminal
_WINDOW = 60.0  # seconds whose steps make a rate, or the last step where that is longer ago


class Work:
    """Some work: what it is, how many steps are done, and of how many if that is known."""

    def __init__(self, label: str = "", total: int | None = None, unit: str = "", done: int = 0):
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.loop: Work | None = None  # over batches, that runs in this work
        self.loops = 0
        self._looks: collections.deque[tuple[float, int]] = collections.deque()
        self._begun: float | None = None

    def step(self, count: int = 1) -> None:
        """So many steps more are done."""
        self.done += count
        self.loops = 0

    def look(self, now: float) -> None:
        """Take down how far it is."""
        if self._begun is None:
            self._begun = now
        if self.unit and (not self._looks or self._looks[-1][1] != self.done):
            self._looks.append((now, self.done))
        while len(self._looks) > 2 and now - self._looks[1][0] > _WINDOW:
            self._looks.popleft()

    def seconds(self, now: float) -> float:
        """Since it was first looked at."""
        return 0.0 if self._begun is None else now - self._begun

    def rate(self) -> float | None:
        """Steps a second; None before there are two looks."""
        if len(self._looks) < 2:
            return None
        (start, before), (end, after) = self._looks[0], self._looks[-1]
        return (after - before) / (end - start) if after > before and end > start else None

    def left(self, now: float) -> float | None:
        """Seconds that remain at this rate; None where the rate or the total is not known."""
        rate = self.rate()
        if rate is None or self.total is None:
            return None
        then, done = self._looks[-1]
        return max(0.0, (self.total - done) / rate - (now - then))

    def words(self, now: float, *, with_rate: bool) -> str:
        """The label and the count, such as `train: 3 of 8 models, 12.0 s per model, 60 s left`."""
        parts = [self._count()] if self.unit and (self.total is not None or self.done) else []
        rate, left = self.rate(), self.left(now)
        if with_rate and rate is not None:
            parts.append(_speed(rate, self.unit))
        if with_rate and left is not None:
            parts.append(f"{duration(left)} left")
        return ": ".join(filter(None, (self.label, ", ".join(parts))))

    def _count(self) -> str:
        if self.total is None:
            return f"{self.done:,} {_counted(self.unit, self.done)}"
        return f"{self.done:,} of {self.total:,} {_counted(self.unit, self.total)}"


class Display:
    """Shows the work that is open on a stream.

    Args:
      stream: rewritten in place if it is a terminal, else it gets a line a minute.
      clock: seconds.
      speaks: whether this process is the one of several that writes.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        clock: Callable[[], float] = time.monotonic,
        speaks: Callable[[], bool] = lambda: True,
    ):
        self._stream, self._clock, self._speaks = stream, clock, speaks
        self._is_terminal = _is_terminal(stream)
        self._open: list[Work] = []
        self._lock = threading.RLock()
        self._is_drawn = False
        self._wrote_at = clock()
        self.asks = False  # for how far the loop is: it runs ahead of its results

    @contextlib.contextmanager
    def work(self, *about: Any) -> Iterator[Work]:
        """Show this work, inside what is open, for as long as the block runs."""
        mine = Work(*about)
        with self._lock:
            mine.look(self._clock())
            self._open.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._open.remove(mine)
                if not self._line(self._clock()):
                    self._clear()

    def begin_loop(self, total: int | None, done: int) -> None:
        """A loop over batches begins, in the work that was opened last."""
        with self._lock:
            for mine in self._open[-1:]:
                mine.loops += 1
                label = f"loop {mine.loops}" if mine.loops > 1 else ""
                mine.loop = Work(label, total, "batch", done)

    def advance_loop(self, done: int) -> None:
        """The loop has done so many batches. The rate leaves out the first step, which compiles."""
        with self._lock:
            for mine in self._open[-1:]:
                if mine.loop is not None:
                    mine.loop.done = done
                    mine.loop.look(self._clock())
        self.asks = False

    def end_loop(self) -> None:
        """The loop has ended."""
        with self._lock:
            for mine in self._open[-1:]:
                mine.loop = None

    def pulse(self) -> None:
        """Look at the work, and write if it is time."""
        with self._lock:
            now, self.asks = self._clock(), True
            for mine in self._open:
                mine.look(now)
            line = self._line(now)
            if not line or not self._speaks():
                return
            if self._is_terminal:
                self._write(f"\r{_cut(line, _columns(self._stream) - 1)}\x1b[K")
                self._is_drawn = True
            elif now - self._wrote_at >= LINE:
                self._write(line + "\n")
                self._wrote_at = now

    def say(self, text: str) -> None:
        """Write a line that stays, above the one that is rewritten."""
        with self._lock:
            if self._speaks():
                self._clear()
                self._write(text + "\n")
                self._wrote_at = self._clock()

    def print(self, text: str) -> None:
        """Print a text that is a result, in the place of the line until the next look."""
        with self._lock:
            self._clear()
            print(text, flush=True)

    def _line(self, now: float) -> str:
        """All that is open, from the outside in; rate and time of the outermost that is counted."""
        line, separator, timed = "", "", False
        for mine in [each for work in self._open for each in (work, work.loop) if each is not None]:
            words = mine.words(now, with_rate=not timed)
            if words:
                line += separator + words
                separator = "; " if mine.unit else ": "
                timed |= mine.left(now) is not None
        if not line or timed:
            return line
        told = [w for w in self._open if w.loop is not None or w.words(now, with_rate=False)]
        return line + (", " if separator == "; " else ": ") + duration(told[-1].seconds(now))

    def _clear(self) -> None:
        if self._is_drawn:
            self._write("\r\x1b[K")
            self._is_drawn = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a stream that is gone stops no work
            self._stream.write(text)
            self._stream.flush()


_SHOWN: contextvars.ContextVar[Display | None] = contextvars.ContextVar("shown", default=None)


@contextlib.contextmanager
def shown(speaks: Callable[[], bool] = lambda: True) -> Iterator[tuple[Display | None, bool]]:
    """Show the work of this block on stderr; gives the display, and whether it is a new one.

    None where the environment variable `MU_JAX_PROGRESS` is `off`.
    """
    display = _SHOWN.get()
    if display is not None or os.environ.get("MU_JAX_PROGRESS") == "off":
        yield display, False
        return
    display, over = Display(sys.stderr, speaks=speaks), threading.Event()

    def watch() -> None:
        while not over.wait(PULSE):
            display.pulse()

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    token = _SHOWN.set(display)
    thread.start()
    try:
        yield display, True
    finally:
        _SHOWN.reset(token)
        over.set()
        thread.join()


@contextlib.contextmanager
def work(
    label: str = "", total: int | None = None, unit: str = "step", done: int = 0
) -> Iterator[Work]:
    """Work of `total` steps, shown if somebody looks: call `step` of what this gives.

    Args:
      label: what is done, in a word or two.
      total: steps in all; None where nobody knows.
      unit: what one step is, in the singular.
      done: steps that are done already and say nothing about the rate.

    Example:
      >>> with work("train", 3, "model") as training:
      ...     for _ in range(3):
      ...         training.step()
      >>> training.done
      3
    """
    display = _SHOWN.get()
    if display is None:
        yield Work(label, total, unit, done)
        return
    with display.work(label, total, unit, done) as mine:
        yield mine


def each(
    items: Iterable[Item], label: str = "", unit: str = "step", *, total: int | None = None
) -> Iterator[Item]:
    """The items, counted for whoever looks; an item is done when the next one is asked for.

    Example:
      >>> list(each("abc", "letters", "letter"))
      ['a', 'b', 'c']
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with work(label, total, unit) as mine:
        for item in items:
            yield item
            mine.step()


def say(text: str) -> None:
    """Write a line on stderr that stays: use it where `print` would write into the line shown."""
    display = _SHOWN.get()
    if display is None:
        print(text, file=sys.stderr, flush=True)
    else:
        display.say(text)


def show(text: str) -> None:
    """Print a result on stdout while work is open: `print` would write into the line shown."""
    display = _SHOWN.get()
    if display is None:
        print(text, flush=True)
    else:
        display.print(text)


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Example:
      >>> [duration(s) for s in (0.2, 59, 61, 3600 * 26 + 300)]
      ['0 s', '59 s', '1 min 01 s', '26 h 05 min']
    """
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _speed(rate: float, unit: str) -> str:
    if rate < 1:
        each = 1 / rate
        return f"{f'{each:.1f} s' if each < 60 else duration(each)} per {unit}"
    return f"{f'{rate:.1f}' if rate < 100 else f'{rate:,.0f}'} {_counted(unit, 2)}/s"


def _counted(unit: str, number: int) -> str:
    if number == 1 or unit.isupper():  # MB is MB
        return unit
    return unit + ("es" if unit.endswith(("ch", "sh", "s", "x")) else "s")


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"


def _is_terminal(stream: TextIO) -> bool:
    """Whether a line can be rewritten: not on a terminal that says it is dumb."""
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # closed
        return False


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
