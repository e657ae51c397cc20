"""One study as a queue: many processes try settings, and each setting has one result.

The state of a search is what the storage holds: no process has a list of its own. A trial is of one
setting. It counts while it waits, runs or has ended, and it does not count once it has failed, so
that its setting is open again. Three rules make every setting end once, whatever is killed:

* A result is written to a running trial, and is a result when the trial is told to have ended. A
  trial ends once, and what has ended cannot be changed.
* A running trial shows that its process lives by an attribute that changes. When the attribute has
  stood still for a lease, by the clock of the process that looks, the trial is told to have failed.
* Of several trials of one setting the first counts, by its number; the others are told to have
  failed before they are run.

Optuna's own heartbeat is not used: it belongs to `Study.optimize`, which asks for one trial at a
time, and it never looks at a trial whose process was killed before the first beat.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

BEATS = 5  # in a lease
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_OPEN = (TrialState.WAITING, TrialState.RUNNING)
_GONE = (optuna.exceptions.UpdateFinishedTrialError, optuna.exceptions.StorageInternalError)
Params = Mapping[str, Any]


class Limits(NamedTuple):
    """How many tries of a setting may end in an error, and how many in the death of the process.

    Deaths are mostly preemptions, which are nobody's fault; their limit is there for a setting that
    takes its machine down.
    """

    errors: int = 2
    deaths: int = 50


class Plan(NamedTuple):
    """What a study is to try.

    name: of the study. space: the distribution of every hyper-parameter. items: the settings of a
    list, by names of which each stands for its content; None: the sampler draws settings.
    number: how many settings there are. block: how many are run together.
    """

    name: str
    space: Mapping[str, BaseDistribution]
    items: Mapping[str, Params] | None
    number: int
    block: int = 1


class Outcome(NamedTuple):
    """What came of a setting: a value to minimize, None if it has none, and a text to keep."""

    value: float | None
    text: str


Run = Callable[[Sequence[Params]], Sequence[Outcome]]


class Queue:
    """A study as one process sees it.

    Args:
      storage: of Optuna. plan: what to try. sampler: draws settings if the plan lists none.
      lease_s: seconds without a sign of life after which a running trial is lost.
      limits: see `Limits`.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        plan: Plan,
        sampler: optuna.samplers.BaseSampler | None = None,
        *,
        lease_s: float = 60.0,
        limits: Limits | None = None,
    ):
        self.plan = plan
        self.lease_s = lease_s
        self.limits = Limits() if limits is None else limits
        self._beats: dict[int, tuple[Any, float]] = {}
        self._mine: set[int] = set()
        # Settings of a list have fixed parameters; whatever is drawn beside them is thrown away.
        self.study = optuna.create_study(
            storage=storage,
            study_name=plan.name,
            sampler=sampler or optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def results(self) -> list[FrozenTrial]:
        """The trial that counts of every setting that has ended, in the order of the list.

        Settings that were drawn are in the order in which they were asked for.
        """
        ended = [trial for trial in self.trials() if trial.state in _ENDED]
        if self.plan.items is None:
            return ended[: self.plan.number]
        first: dict[str, FrozenTrial] = {}
        for trial in ended:
            first.setdefault(trial.user_attrs.get("item", ""), trial)
        return [first[name] for name in self.plan.items if name in first]

    def failed(self) -> dict[str, str]:
        """Why settings have no result and will have none, by name."""
        trials = self.trials()
        if self.plan.items is None:
            broken = {f"trial {t.number}": t.user_attrs["error"] for t in _errors(trials)}
            if len(_lost(trials)) >= self.limits.deaths:
                broken["trials"] = f"{len(_lost(trials))} processes were lost"
            return broken
        found = {}
        for name in self.plan.items:
            mine = [trial for trial in trials if trial.user_attrs.get("item") == name]
            if any(trial.state in (*_ENDED, *_OPEN) for trial in mine):
                continue
            if (errors := _errors(mine)) and len(errors) >= self.limits.errors:
                found[name] = errors[-1].user_attrs["error"]
            elif len(_lost(mine)) >= self.limits.deaths:
                found[name] = f"{len(_lost(mine))} processes were lost with it"
        return found

    def over(self) -> bool:
        """Whether every setting has a result or will have none."""
        if self.plan.items is None and "trials" in self.failed():
            return True
        return len(self.results()) + len(self.failed()) >= self.plan.number

    def claim(self) -> list[optuna.Trial]:
        """Up to a block of trials for this process to run; none if others run what is left."""
        self._release()
        claimed: list[optuna.Trial] = []
        while len(claimed) < self.plan.block and self._offer():
            try:
                trial = self.study.ask(self.plan.space)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # this process stood still for a lease, and another one gave the trial up
            if self._counts(trial.number):
                claimed.append(trial)
            else:
                self._tell(trial.number, state=TrialState.FAIL)
        return claimed

    def params(self, trial: optuna.Trial) -> Params:
        """The setting of a trial: as the list has it, or as it was drawn."""
        if self.plan.items is None:
            return trial.params
        return self.plan.items[trial.user_attrs["item"]]

    def _offer(self) -> bool:
        """See to it that there is something to ask for, if there is something to do."""
        trials = self.trials()
        if any(trial.state is TrialState.WAITING for trial in trials):
            return True
        if self.plan.items is None:
            return len(_drawn(trials)) < self.plan.number and "trials" not in self.failed()
        taken = {t.user_attrs.get("item") for t in trials if t.state in (*_ENDED, *_OPEN)}
        taken |= set(self.failed())
        free = [name for name in self.plan.items if name not in taken]
        if free:
            name = free[_place(len(free))]  # so that processes rarely choose the same
            self.study.enqueue_trial(dict(self.plan.items[name]), user_attrs={"item": name})
        return bool(free)

    def _counts(self, number: int) -> bool:
        """Whether a trial is the first of its setting, or one of those that are wanted."""
        trials = self.trials()
        earlier = [trial for trial in trials if trial.number < number]
        if self.plan.items is None:
            return len(_drawn(earlier)) < self.plan.number
        item = next(t for t in trials if t.number == number).user_attrs.get("item")
        alive = [t for t in earlier if t.state in (*_ENDED, *_OPEN)]
        return item in self.plan.items and all(t.user_attrs.get("item") != item for t in alive)

    def _release(self) -> None:
        """Give up running trials that have shown no life for a lease."""
        now = time.monotonic()
        for trial in self.trials():
            if trial.state is not TrialState.RUNNING or trial.number in self._mine:
                continue
            beat = trial.user_attrs.get("beat")
            seen = self._beats.setdefault(trial.number, (beat, now))
            if seen[0] != beat:
                self._beats[trial.number] = (beat, now)
            elif now - seen[1] >= self.lease_s:
                self._tell(trial.number, state=TrialState.FAIL)

    def close(self) -> None:
        """End open trials that do not count: requests made twice, then forgotten.

        Two processes may ask for the same setting in the same moment, and one of them may die, or
        find the storage locked, before the second trial is told to have failed. A trial that counts
        is left to its process, which may still live where too many others were lost.
        """
        while any(trial.state is TrialState.WAITING for trial in self.trials()):
            with contextlib.suppress(*_GONE):  # only a trial that was asked for can be told
                self.study.ask(self.plan.space)
        for trial in self.trials():
            if trial.state is TrialState.RUNNING and not self._counts(trial.number):
                self._tell(trial.number, state=TrialState.FAIL)

    def _tell(self, number: int, value: float | None = None, **options: Any) -> bool:
        """End a trial; False if another process has done so before."""
        try:
            self.study.tell(number, value, **options)
        except (ValueError, *_GONE):
            return False
        return True

    def finish(self, trial: optuna.Trial, outcome: Outcome) -> bool:
        """Publish the result of a trial; False if it has ended before, which drops this result."""
        try:
            trial.set_user_attr("result", outcome.text)
        except _GONE:
            return False
        if outcome.value is None:
            return self._tell(trial.number, state=TrialState.PRUNED)
        return self._tell(trial.number, outcome.value)

    def fail(self, trial: optuna.Trial, error: str) -> None:
        """Say how the try of a trial ended."""
        with contextlib.suppress(*_GONE):
            trial.set_user_attr("error", error)
        self._tell(trial.number, state=TrialState.FAIL)

    @contextlib.contextmanager
    def alive(self, trials: Sequence[optuna.Trial]) -> Iterator[None]:
        """Show that this process lives for as long as the block runs."""
        stop = threading.Event()
        self._mine |= {trial.number for trial in trials}

        def beat() -> None:
            number = 0
            while True:
                for trial in trials:
                    with contextlib.suppress(*_GONE):
                        trial.set_user_attr("beat", [socket.gethostname(), os.getpid(), number])
                number += 1
                if stop.wait(self.lease_s / BEATS):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self._mine -= {trial.number for trial in trials}


def work(
    queue: Queue, run: Run, *, report: Callable[[str], None] = print, poll_s: float = 1.0
) -> None:
    """Run trials until each setting has a result or will have none, whoever runs it.

    Any number of processes do this on the same storage. Those with nothing to do wait for the
    others, and take over should they die.

    Args:
      queue: the study.
      run: the outcomes of a block of settings; what it raises is kept as the error of each of them.
      report: takes a line after every block.
      poll_s: seconds between looks at the storage while others run what is left.
    """
    while not queue.over():
        trials = queue.claim()
        if not trials:
            time.sleep(poll_s)
            continue
        start = time.monotonic()
        with queue.alive(trials):
            words = _run(queue, trials, run)
        done = f"{len(queue.results())} of {queue.plan.number} settings have ended"
        report(f"{queue.plan.name}: {words} after {time.monotonic() - start:.1f} s; {done}")
    queue.close()


def _run(queue: Queue, trials: Sequence[optuna.Trial], run: Run) -> str:
    try:
        outcomes = run([queue.params(trial) for trial in trials])
    except Exception as error:
        for trial in trials:
            queue.fail(trial, traceback.format_exc())
        return f"{len(trials)} failed: {' '.join(str(error).split())}"
    written = [queue.finish(trial, outcome) for trial, outcome in zip(trials, outcomes)]
    late = f", {written.count(False)} by another process before" if False in written else ""
    return f"{len(trials)} done{late}"


def _errors(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [t for t in trials if t.state is TrialState.FAIL and "error" in t.user_attrs]


def _lost(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that showed life and then no more."""
    return [
        t
        for t in trials
        if t.state is TrialState.FAIL and "error" not in t.user_attrs and "beat" in t.user_attrs
    ]


def _drawn(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The drawn settings that count: those that are open or have ended, be it in an error."""
    return [t for t in trials if t.state in (*_ENDED, *_OPEN)] + _errors(trials)


def _place(size: int) -> int:
    """Where among what is free this process begins: spread by a digest of who it is."""
    who = f"{socket.gethostname()} {os.getpid()} {threading.get_ident()}"
    return int.from_bytes(hashlib.sha256(who.encode()).digest()[:8], "big") % size
