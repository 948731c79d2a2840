"""The step ``mrds``: the ARDS to one row per entity and day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

from ml_platform.data_engineering import mrds, unity_catalog
from ml_platform.engine.run_days import from_same_day
from ml_platform.engine.step import Inputs, Written
from ml_platform.engine.verdicts import Content, ValidatedStep
from ml_platform.mlops.quality import anomalies, profiles
from ml_platform.mlops.quality.anomalies import Fact
from ml_platform.mlops.quality.profiles import Profile
from ml_platform.storage.contract_versions import ContractVersions

FEATURES_FINGERPRINT = "features_fingerprint"


class Mrds(ValidatedStep):
    """ARDS to one row per entity and day."""

    asset = "mrds"
    tables = (mrds.MRDS,)
    data_set = "mrds"
    contract_sections = ("source", "mrds")

    def inputs(self, days: Sequence[date]) -> dict[date, Inputs]:
        versions = ContractVersions(self.context.tables, self.context.product)
        return from_same_day(self.context, "ards", days, contracts=versions.ards_like_now())

    def write_content(self, days: Sequence[date]) -> dict[date, Content | Written]:
        context = self.context
        product = context.product
        unity_catalog.declare(context.spark, product, context.tables, "mrds")
        written = mrds.write(
            context.spark,
            product,
            context.tables,
            days,
            run_id=context.request.run_id,
            statistics=profiles.ProfileStatistics(product, "mrds"),
        )
        return {
            day: Written("refused", one.refusal)
            if one.refusal
            else Content(
                counts=one.counts,
                profile=profiles.profile(product, "mrds", one.counted.rows, one.counted.statistics),
                fingerprint=one.counted.fingerprint,
                delta_version=one.delta_version,
                metadata={FEATURES_FINGERPRINT: one.counted.features_fingerprint},
            )
            for day, one in written.items()
        }

    def sources(self, days: Sequence[date]) -> dict[date, Profile]:
        records = self.context.ledger.latest("ards", set(days))
        return {day: Content.of(record).profile for day, record in records.items()}

    def facts(self, contents: Mapping[date, Content]) -> dict[date, list[Fact]]:
        known = self.known_facts(contents)
        return {day: anomalies.facts_of_rows(self.context.product, day, known) for day in contents}
