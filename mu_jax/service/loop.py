"""The loop that serves requests: unlearn, judge, publish, swap, certify; retrain when it must."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from mu_jax.data import ids
from mu_jax.data.id_table import IdTable
from mu_jax.exact.requests import Spent
from mu_jax.service import drift
from mu_jax.service.drift import UNTRIED, Budget, Drift
from mu_jax.service.gate import Gate, with_membership
from mu_jax.service.guarantees import APPROXIMATE
from mu_jax.service.ledger import Ledger
from mu_jax.service.recipes import Job, Made, Recipe
from mu_jax.service.runs import Work
from mu_jax.service.signing import Signer
from mu_jax.service.statements import Statement
from mu_jax.service.worker import Worker
from mu_jax.store.run_state import config_digest
from mu_jax.store.versions import Overtaken, Store, Version

PyTree = Any
_ASKS_NOTHING, _NO_LIMIT = Gate(), Budget()
_IN_A_ROW = 5  # versions that others were faster than, before the loop gives up
_FOUND = (
    "The version was found serving when this was signed: which bounds it was held to is not known, "
    "nor whether its method removes or only hides."
)


class Outcome(NamedTuple):
    """How a loop ended.

    Attributes:
        kind: "drained", nothing waits; "withheld", what was made does not pass the gate and nothing
            better is to be had; "retrain", the lineage has to begin anew and no recipe for that was
            given; "overtaken", others began to serve another version each time that one was made.
        reason: a sentence; "" where nothing waits.
        done: how many requests were done.
    """

    kind: Literal["drained", "withheld", "retrain", "overtaken"]
    reason: str
    done: int


@dataclasses.dataclass(frozen=True, eq=False)
class Service:
    """What serves the requests of a ledger with the models of a store.

    For each run: what a killed worker has published is taken, or else the version is made; it is
    published with all that was measured; if the gate and the budget allow, it serves, the operator
    signs, and the requests are done. Otherwise the version that serves goes on to serve, the new
    one stays for inspection, and the requests are put back with the reason. After `attempts`
    refusals, where the budget is spent, or where a method cannot answer, the model is retrained on
    everything that nobody asked to forget, and a new lineage begins.

    A process that is killed at any moment is followed by one that goes on: no request is lost, none
    is done by two versions that serve, and a whole version serves all the time. A version that
    somebody went back from meanwhile does not serve again: its requests are put back, as after a
    refusal.

    Attributes:
        ledger, store: in the store a version must serve.
        like: tree of the shapes and dtypes of the variables, for `store.restore`.
        index: ids of the training examples that are at hand, int [n].
        split: `Work -> (forget, retain)`, such as `lambda work: work.split(data)`.
        unlearning: how a request is answered.
        retraining: how a lineage begins anew; None leaves that to a person.
        gate, budget: what is asked of a version, and of a lineage.
        batch: how many requests to take at once; None takes all that wait.
        attempts: how often a request is tried before the model is retrained.
        signer: of certificates; None issues none.
        ids: the table of people's ids with which the lineage began, if it has one.
        report: takes sentences on what is done.
    """

    ledger: Ledger
    store: Store
    like: PyTree
    index: np.ndarray
    split: Callable[[Work], tuple[Any, Any]]
    unlearning: Recipe
    retraining: Recipe | None = None
    gate: Gate = _ASKS_NOTHING
    budget: Budget = _NO_LIMIT
    batch: int | None = None
    attempts: int = 2
    signer: Signer | None = None
    ids: IdTable | None = None
    report: Callable[[str], None] = print

    def drain(self, *, wait: bool = False) -> Outcome:
        """Serve until nothing waits, or nothing more can be done.

        Args:
            wait: for another worker to end; False refuses at once.

        Raises:
            BlockingIOError: another process works.
            FileNotFoundError: no version serves.
            ValueError: certificates were issued before, and there is no signer or another key; or
                examples are not at hand that somebody asks to forget, whose requests wait.
            Overtaken: another worker took this one for dead.
        """
        self._require_signer()
        done, lost, most = 0, 0, None if self.unlearning.whole else self.batch
        with self.ledger.worker(wait=wait) as worker:
            while True:
                worker.reconcile(self._serving(), self.store.forgotten())
                if (work := worker.start(parent=self._serving(), most=most)) is None:
                    return Outcome("drained", "", done)
                ended = self._serve(worker, work)
                done += ended.done
                lost = lost + 1 if ended.kind == "overtaken" else 0
                if ended.kind != "drained" and lost in (0, _IN_A_ROW):
                    return ended._replace(done=done)

    def _serve(self, worker: Worker, work: Work) -> Outcome:
        """One run, and where it must be the retraining that follows."""
        if np.isin(work.forget, self.store.forgotten(serving := self._serving())).all():
            return self._finish(worker, work, serving)  # a killed worker's, or somebody else's
        self._require_at_hand(worker, work)
        reason = self._must_retrain(work)
        if not reason:
            try:
                return self._unlearn(worker, work)
            except Spent as error:
                reason = " ".join(str(error).split())
        return self._anew(worker, work, reason)

    def _must_retrain(self, work: Work) -> str:
        """Why a request is not to be answered by unlearning; "" if it is."""
        found = {each.number: self.ledger.events(each.number) for each in work.requests}
        tries, one = max((drift.put_backs(events), number) for number, events in found.items())
        if tries >= self.attempts:
            why = drift.why_put_back(found[one])
            return (
                f"request {one} was put back {tries} of {self.attempts} times, the last for {why}"
            )
        drifted = self._drift(work).after(len(work.forget), approximate=self.unlearning.approximate)
        return self.budget.spent(drifted)

    def _unlearn(self, worker: Worker, work: Work) -> Outcome:
        version, withheld = self._version(work, self.unlearning, work.parent, work.forget)
        if withheld:
            serving = f"version {work.parent} keeps serving"
            name = f"version {version}" if version else f"the result of {self.unlearning.method}"
            self.report(f"{_requests(work)}: {name} does not serve, since {withheld}; {serving}")
            worker.put_back(work, withheld)
            return Outcome("drained", "", 0)
        return self._swap(worker, work, version)

    def _anew(self, worker: Worker, work: Work, reason: str) -> Outcome:
        """Begin a new lineage with everything that was asked for until now."""
        if self.retraining is None:
            worker.put_back(work, f"{UNTRIED}the model has to be retrained: {reason}")
            return Outcome("retrain", f"{_requests(work)}: {reason}; retrain the model", 0)
        gone = np.union1d(self.ledger.forgotten(), work.forget)
        if np.setdiff1d(work.excluded, gone).size:  # others wait, which it would never see
            worker.put_back(work, f"{UNTRIED}it is retrained with all that wait: {reason}")
            again = worker.start(parent=self._serving())
            assert again is not None, "what was put back waits"
            work, gone = again, np.union1d(self.ledger.forgotten(), again.forget)
        self.report(f"{_requests(work)}: {reason}; retraining")
        version, withheld = self._version(work, self.retraining, None, gone)
        if withheld:
            worker.put_back(work, f"the retrained model does not serve, since {withheld}")
            return Outcome(
                "withheld",
                f"{_requests(work)}: even the retrained model does not pass, since {withheld}; "
                "ask for less, or change the recipe of the training",
                0,
            )
        return self._swap(worker, work, version)

    def _version(
        self, work: Work, recipe: Recipe, parent: int | None, forgotten: np.ndarray
    ) -> tuple[int, str]:
        """The version of a run, found or made and published, and why it must not serve.

        Version 0 is one that could not be published.
        """
        identity = self._identity(work, recipe)
        if (version := self.store.find(identity)) is not None:
            return version, self.store.lineage(version)[0].withheld
        before = self.store.restore(work.parent, like=self.like)
        made = recipe.make(Job(work, before, *self.split(work), identity))
        if made.variables is None:
            return 0, made.withheld or "it is not finite"
        measured = with_membership(made.measured)
        withheld = self._judged(work, recipe, parent, made._replace(measured=measured))
        version = self.store.publish(
            made.variables,
            parent=parent,
            method=recipe.method,
            hyperparameters=recipe.parameters,
            forgotten=forgotten,
            metrics=measured,
            note=", ".join(request.asked for request in work.requests),
            withheld=withheld,
            identity=identity,
            ids=self.ids,
        )
        return version, withheld

    def _judged(self, work: Work, recipe: Recipe, parent: int | None, made: Made) -> str:
        reasons = [self.gate.judge(made.measured, made.withheld).sentence]
        if parent is not None:
            drifted = self._drift(work).after(
                len(work.forget), approximate=recipe.approximate, measured=made.measured
            )
            reasons.append(self.budget.spent(drifted))
        return "; ".join(filter(None, reasons))

    def _swap(self, worker: Worker, work: Work, version: int) -> Outcome:
        """Serve a version, where the one from which the run began still serves.

        One that served until somebody went back from it, after a killed worker's swap, does not.
        """
        if version in self.store.withdrawn():
            self.report(f"{_requests(work)}: version {version} was rolled back and stays so")
            worker.put_back(work, f"version {version} was rolled back")
            return Outcome("drained", "", 0)
        try:
            self.store.swap(version, expected=work.parent)
        except Overtaken as error:
            self.report(f"{_requests(work)}: version {version} does not serve: {error}")
            worker.put_back(work, drift.OVERTAKEN)
            return Outcome(
                "overtaken",
                f"{_requests(work)}: others began to serve another version {_IN_A_ROW} times in a "
                f"row while one was made, at last version {self._serving()}; let one process alone "
                "serve this store, and start again",
                0,
            )
        return self._finish(worker, work, version)

    def _finish(self, worker: Worker, work: Work, version: int) -> Outcome:
        """Write down that the requests are done by the version that serves."""
        record = self.store.lineage(version)[0]
        certificate = self._certificate(work, record)
        worker.finish(work, version=version, certificate=certificate)
        if self.signer is not None and certificate is not None:
            self.signer.write(certificate)
        self.report(
            f"{_requests(work)}: version {version} serves, {record.method} forgot "
            f"{len(work.forget)} examples"
        )
        return Outcome("drained", "", len(work.requests))

    def _certificate(self, work: Work, record: Version) -> bytes | None:
        if self.signer is None:
            return None
        recipes = filter(None, (self.unlearning, self.retraining))
        made = [each for each in recipes if self._identity(work, each) == record.identity]
        arrays = {"variables": self.store.restore(record.version, like=self.like)}
        forget, retain = self.split(work)
        inputs = {"forget": forget, "retain": retain}
        if record.parent is not None:
            inputs["variables"] = self.store.restore(record.parent, like=self.like)
        statement = Statement(
            asked=work.requests,
            forgotten=work.forget if record.parent else self.store.forgotten(record.version),
            method=record.method,
            aim=made[0].aim if made else "removal",
            parameters=record.hyperparameters,
            parent=record.parent,
            version=record.version,
            guarantee=made[0].guarantee if made else APPROXIMATE,
            measured=record.metrics,
            thresholds=self.gate.thresholds if made else {},
            inputs=inputs,
            outputs=arrays,
            notes=() if made else (_FOUND,),
        )
        return self.signer.sign(self.ledger, statement)

    def _drift(self, work: Work) -> Drift:
        """Where the lineage of the version stands from which a run begins."""
        lineage = self.store.lineage(self._parent(work))
        every = np.union1d(self.index, self.store.forgotten(work.parent))
        recipes = filter(None, (self.unlearning, self.retraining))
        exact = {recipe.method for recipe in recipes if not recipe.approximate}
        return drift.of_lineage(lineage, len(every), exact=exact)

    def _parent(self, work: Work) -> int:
        if work.parent is None:
            raise ValueError(
                f"expected a version from which run {work.run} began, found none; put the requests "
                "back with Worker.put_back"
            )
        return work.parent

    def _serving(self) -> int:
        if (version := self.store.serving()) is None:
            raise FileNotFoundError(
                f"expected a version that serves in {self.store.directory}, found none; train a "
                "model and swap to it"
            )
        return version

    def _require_at_hand(self, worker: Worker, work: Work) -> None:
        """Refuse to work without the examples; the requests wait, so that one can be refused."""
        away = np.setdiff1d(work.forget, self.index)
        if away.size:
            names = ", ".join(self.ledger.names(away[:5]))
            worker.put_back(work, f"{UNTRIED}examples are not among the training data: {names}")
            raise ValueError(
                f"expected the examples of {_requests(work).lower()} among the training data, "
                f"found {away.size} that are not there ({names}); prepare the data as they were, "
                "with them"
            )

    def _require_signer(self) -> None:
        if self.signer is not None:
            self.signer.require_next(self.ledger)
            self.signer.write_all(self.ledger)
        elif self.ledger.last_certificate() is not None:
            raise ValueError(
                "expected the operator's key, since certificates were issued before, found none; "
                "give it, so that the chain goes on"
            )

    def _identity(self, work: Work, recipe: Recipe) -> str:
        """Digest of all that decides the result of a run, and whether it passes."""
        return config_digest(
            {
                "run": work.run,
                "parent": work.parent,
                "forget": ids.digest(work.forget),
                "excluded": ids.digest(work.excluded),
                "method": recipe.method,
                "parameters": dict(recipe.parameters),
                "decides": dict(recipe.decides),
                "gate": dataclasses.asdict(self.gate),
                "budget": dataclasses.asdict(self.budget),
            }
        )


def _requests(work: Work) -> str:
    """The requests of a run as words of a sentence."""
    numbers = ", ".join(str(request.number) for request in work.requests)
    return f"Request{'s' * (len(work.requests) > 1)} {numbers}"
