"""The monthly drift report: the month's ARDS, MRDS and predictions against earlier windows.

Compared are the ARDS's columns that are neither keys nor dates, what the MRDS makes of many days or of
other columns, the label of the days whose labels can be known, and the predicted probability. The references
are the month before, and the days that the model serving at the month's end was trained on; of these the
probability is what that model gives the entities held out from it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from ml_platform.contract.assets import ARDS, DRIFT_REPORT, MRDS, NO_DRIFT, PREDICTIONS
from ml_platform.contract.days import add_months, counted, days_between, days_of_month, last_day_of
from ml_platform.contract.hashing import fingerprint_of
from ml_platform.contract.product import Product
from ml_platform.engine import presence
from ml_platform.engine.context import left_out
from ml_platform.engine.deciding import load_all
from ml_platform.engine.drift_windows import DriftPlan, Windows, columns_of_mrds
from ml_platform.engine.report_targets import report_links, report_store
from ml_platform.engine.run_partitions import Step
from ml_platform.engine.step import Check, Inputs, Written
from ml_platform.engine.trained_again import Loaded
from ml_platform.machine_learning.model_files import RegistryError
from ml_platform.machine_learning.model_history import ModelHistory, ModelRecord
from ml_platform.machine_learning.promotion import serving
from ml_platform.mlops.drift import drift_report
from ml_platform.mlops.drift.drift_report import MonthDrift
from ml_platform.mlops.links import Around, Links
from ml_platform.storage.contract_versions import ContractVersions
from ml_platform.storage.ledger import DayRecord


class DriftReport(Step):
    """Months of the ARDS and the predictions, to a report and a check. Its days are months' first days."""

    asset = DRIFT_REPORT

    @property
    def code_version(self) -> str:
        targets = fingerprint_of([target.shown for target in self.context.settings.report_targets])
        return f"{super().code_version}/{targets}"

    def lost(self, records: Mapping[date, DayRecord]) -> dict[date, str]:
        store = report_store(self.context.settings)
        return presence.lost_reports(self.context, records, store, drift_report.HTML)

    def plan(self, days: Sequence[date], lost: Collection[date] = ()) -> dict[date, Inputs]:
        decisions = presence.require_decisions(self.context)
        known = {asset: self.context.ledger.latest(asset, details=False) for asset in (ARDS, PREDICTIONS)}
        known |= self._made()
        models = ModelHistory(self.context.tables, self.context.product).by_fingerprint()
        unlabelled = self._days_without_labels(known[ARDS])
        found = {}
        for month in days:
            if not any(day in known[ARDS] for day in days_of_month(month)):
                found[month] = Inputs("", "missing", "nothing of the month has been materialized")
                continue
            decision = serving(decisions, last_day_of(month))
            model = models.get(decision.fingerprint) if decision else None
            plan = self._plan(month, model, known, unlabelled)
            content = [
                [asset, str(day), record.outcome, record.fingerprint]
                for asset in known
                for day in (*days_of_month(month), *plan.before, *plan.training)
                if (record := known[asset].get(day)) is not None
            ]
            made_from: list[Any] = [content, model.fingerprint if model else None]
            if plan.unlabelled:
                made_from.append(sorted(plan.unlabelled))
            inputs = fingerprint_of(made_from)
            found[month] = Inputs(inputs, found=plan)
            if not plan.days:
                found[month] = Inputs(inputs, "held_back", "no day of the month can be used")
        return found

    def _plan(
        self,
        month: date,
        model: ModelRecord | None,
        known: Mapping[str, Mapping[date, DayRecord]],
        unlabelled: frozenset[date],
    ) -> DriftPlan:
        rules, ards = self.context.product.drift, known[ARDS]

        def usable(days: Sequence[date]) -> list[date]:
            return [day for day in days if day in ards and ards[day].usable and ards[day].counts.get("rows")]

        before, learned = [], []
        if "month_before" in rules.against:
            before = usable(days_of_month(add_months(month, -1)))
        if model is not None and "training" in rules.against:
            learned = usable(days_between(model.first_day, model.last_day))
        own = usable(days_of_month(month))
        compared = {*own, *before, *learned}
        return DriftPlan(
            month=month,
            days=own,
            before=before,
            model=model,
            training=learned,
            left_out=left_out({day: ards[day] for day in days_of_month(month) if day in ards}),
            unlabelled=unlabelled.intersection(compared),
            rows={
                ARDS: {day: ards[day].counts.get("rows", 0) for day in compared},
                **{
                    asset: {
                        day: record.counts.get("rows", 0)
                        for day in compared
                        if (record := records.get(day)) is not None and record.usable
                    }
                    for asset, records in known.items()
                    if asset != ARDS
                },
            },
        )

    def _made(self) -> dict[str, dict[date, DayRecord]]:
        """What is known of the days of the MRDS, if columns of it are compared that the ARDS hasn't.

        Those that an earlier contract made otherwise are left out.
        """
        context = self.context
        names = [column.name for column in columns_of_mrds(context.product)]
        if not names:
            return {}
        contracts = ContractVersions(context.tables, context.product).mrds_like_now(names)
        records = context.ledger.latest(MRDS, details=False)
        return {MRDS: {day: record for day, record in records.items() if record.contract in contracts}}

    def _days_without_labels(self, ards: Mapping[date, DayRecord]) -> frozenset[date]:
        """The days whose labels can't be known yet, by the newest day that is there, and haven't come.

        Some of theirs may have: those that come early aren't like the others, and would look like drift.
        """
        product = self.context.product
        minimum = product.validation.minimum_labelled_share
        there = {day: record for day, record in ards.items() if record.counts.get("rows")}
        known_to = product.last_labelled_day(max(there, default=product.start) + timedelta(days=1))
        return frozenset(
            day
            for day, record in there.items()
            if day > known_to
            and (not minimum or record.counts.get("labelled", 0) < minimum * record.counts["rows"])
        )

    def write(self, work: Mapping[date, Inputs], tries: Mapping[date, int]) -> dict[date, Written]:
        product, store = self.context.product, report_store(self.context.settings)
        windows, written = Windows(self.context), {}
        published = {*self.context.ledger.latest(self.asset, outcomes=["written"], details=False), *work}
        for position, (month, inputs) in enumerate(work.items(), start=1):
            plan: DriftPlan = inputs.found
            model: Loaded | None = None
            if plan.learned is not None:
                loaded = load_all(self.context, [plan.learned])[plan.learned.fingerprint]
                if isinstance(loaded, RegistryError):
                    raise loaded
                if loaded is None:  # the month is planned anew
                    continue
                model = loaded
            found = windows.measure(plan, model)
            before, after = add_months(month, -1), add_months(month, 1)
            around = Around(
                Links(self.context.settings.dagster_ui_url),
                before if before in published else None,
                after if after in published else None,
            )
            files = drift_report.build(product, found, around)
            path = f"{product.name}/{self.asset}/{month}"
            links = report_links(self.context.settings, path, store.publish(path, files))
            written[month] = _written(product, found, files, links)
            self.context.log(f"drift_report: {month:%Y-%m} ({position} of {counted(len(work), 'month')})")
        return written


def _written(
    product: Product, month: MonthDrift, files: Mapping[str, bytes], links: Mapping[str, str]
) -> Written:
    content = json.loads(files[drift_report.JSON])
    del content["model"]  # a version number is a label
    del content["summary"]
    for comparison in content["comparisons"]:
        comparison["columns"].sort(key=lambda column: column["column"])
        for column in comparison["columns"]:
            # Fingerprints are older than these.
            del column["new_count"], column["gone_count"]
    exceeding = drift_report.exceeds(product, month)
    check = Check(
        name=NO_DRIFT,
        passed=not exceeding,
        severity="ERROR" if product.drift.severity == "error" else "WARN",
        description=drift_report.summary(product, month),
        metadata=_figures(month) | {"columns": drift_report.table(month)},
    )
    metadata: dict[str, Any] = {"verdict": "drifted" if exceeding else "no drift", **links}
    metadata |= {"rows": month.rows, "drifted": len(month.drifted), "measured": month.measured}
    metadata |= _figures(month) | {"columns": drift_report.table(month)}
    if month.left_out:
        metadata["left_out"] = ", ".join(month.left_out)
    return Written("written", fingerprint=fingerprint_of(content), metadata=metadata, checks=(check,))


def _figures(month: MonthDrift) -> dict[str, float]:
    """One number per column and reference, under names that stay the same over the months."""
    figures: dict[str, float] = {}
    for comparison in month.comparisons:
        against = "training" if comparison.reference.startswith("the training") else "month before"
        for column in comparison.columns:
            if column.score is not None:
                figures[f"{column.column} vs {against}"] = round(column.score, 6)
    return figures
