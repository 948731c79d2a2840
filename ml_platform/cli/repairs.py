"""Making again what is gone or damaged, from the deliveries and the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from ml_platform.cli.backfill import Backfill, BackfillError, apart
from ml_platform.cli.damage import beside, move_aside, torn_commit
from ml_platform.cli.findings import Examination, Finding
from ml_platform.cli.interruption import interruption
from ml_platform.contract.assets import MODEL, brought_up_to_date_with, names, nothing_made_from
from ml_platform.contract.days import DayRange, last_day_of, month_of
from ml_platform.engine import presence
from ml_platform.engine.step import PermanentError
from ml_platform.machine_learning.model_history import ModelHistory
from ml_platform.online_store.store import OnlineStoreError
from ml_platform.storage.contract_versions import ContractVersions

if TYPE_CHECKING:
    import dagster as dg


@dataclass(frozen=True)
class Repair:
    """The repair of what an examination finds; ``say`` takes a line for each thing that is done."""

    examination: Examination
    say: Callable[[str], None]

    def set_aside(self, findings: Sequence[Finding]) -> None:
        """Move what is damaged and can be made again out of the way; nothing is deleted."""
        tables, name = self.examination.context_of(MODEL).tables, self.examination.product.name
        for finding in findings:
            if finding.state != "damaged" or not finding.repairable:
                continue
            path = Path(finding.place).absolute()
            torn = torn_commit(path) if path.is_dir() else None
            if torn is not None:
                with tables.control.lock(name, finding.part):
                    moved = [move_aside(torn)]
            else:
                moved = [move_aside(file) for file in (path, *beside(path)) if file.exists()]
            for file in moved:
                self.say(f"moved aside: {file}")

    def repair(self, instance: dg.DagsterInstance) -> None:
        """Make again what can be made again; ask :meth:`examine` afterwards what is left.

        Raises:
            BackfillError: a run failed.
        """
        context = self.examination.context_of(MODEL)
        history = ModelHistory(context.tables, self.examination.product)
        for decision in presence.lost_rollbacks(history):
            history.take_back(decision, reason=decision.reason, by="ml-platform doctor")
            self.say(f"the rollback as of {decision.as_of} is known again")
        for as_of in presence.restore_models(context, history):
            self.say(f"the model as of {as_of} is known again, from the ledger")
        if any(finding.repairable for finding in self.examination.contracts()):
            ContractVersions(context.tables, self.examination.product).remember()
            self.say("the present version of the contract is known again")
        if self._lost("ards") and any(True for _ in self.examination.deliveries()):
            self.say("nothing is made again before the deliveries that are gone are restored, or given up")
            return
        # In the order of the graph: what is made of something that was lost is looked at when that is there.
        for asset in names():
            if asset == MODEL:
                lost = presence.lost_models(context, self.examination.ledger.latest(MODEL, details=False))
                for as_of in sorted(lost):
                    self._work(instance, asset).train_alone(as_of)
                for as_of in sorted(self.examination.lost_in_remote_registry(set(lost))):
                    work = self._work(instance, asset)
                    work.force = True  # what only a server can tell no run asks for
                    work.train_alone(as_of)
                continue
            try:
                self._make_again(instance, asset)
            except (BackfillError, PermanentError, OnlineStoreError) as error:
                # What is made from days that are lost would be made from nothing.
                if asset not in nothing_made_from() or interruption.noticed():
                    raise
                self.say(f"{asset} is left as it is: {error}")

    def _make_again(self, instance: dg.DagsterInstance, asset: str) -> None:
        work = self._work(instance, asset)
        for span in self._spans(work, asset, sorted(self._lost(asset))):
            last = last_day_of(month_of(span.last)) if asset == "drift_report" else span.last
            work.run(DayRange(span.first, last))

    def _spans(self, work: Backfill, asset: str, days: Sequence[date]) -> list[DayRange]:
        """The ranges to run over, so that days are done and none whose delivery is gone is withdrawn."""
        if not days or asset != "ards":
            return apart(days, ())
        gone = work.without_delivery(DayRange(days[0], days[-1]))
        return apart([day for day in days if day not in gone], gone)

    def _lost(self, asset: str) -> set[date]:
        context, ledger = self.examination.context_of(asset), self.examination.ledger
        return {
            day
            for made in brought_up_to_date_with(asset, self.examination.product)
            for day in made.step_class(context).lost(ledger.latest(made.name))
        }

    def _work(self, instance: dg.DagsterInstance, asset: str) -> Backfill:
        return Backfill(
            self.examination.product,
            self.examination.settings,
            instance,
            select=(asset,),
            started=self.say,
            progress=self.say,
        )

    def report_again(self, instance: dg.DagsterInstance) -> None:
        """Tell Dagster of every day that only the ledger knows; what is up to date isn't done again.

        Raises:
            BackfillError: a run failed.
        """
        for asset in names():
            work = self._work(instance, asset)
            for span in self._spans(work, asset, self.examination.unknown_to(instance, asset)):
                work.show(asset, span)
