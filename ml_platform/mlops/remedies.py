"""What a person does about something that is wrong: in words, and the command to copy; what it holds back.

Reports, alerts and the pages of today all say it from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from ml_platform.contract.assets import (
    CATALOGUE,
    CHALLENGER_BEATS_CHAMPION,
    DATA_QUALITY,
    DRIFT_REPORT,
    MODEL,
    NO_DRIFT,
    PERFORMANCE_ABOVE_THRESHOLD,
)
from ml_platform.contract.days import last_day_of

#: What findings of the clock and of runs are called.
RUN_FAILED = "run failed"
DELIVERY_OVERDUE, LABELS_OVERDUE, MODEL_OVERDUE = "delivery overdue", "labels overdue", "model overdue"
UNMADE, GONE = "materialization overdue", "deliveries gone"


@dataclass(frozen=True)
class Remedy:
    """A way to go: what to do, then the command that completes it."""

    words: str
    command: str


def remedies(
    product: str, asset: str, subject: str, partition: str, *, severity: str = "error", last: str = ""
) -> list[Remedy]:
    """The ways out of something wrong, the usual one first; none where a look at the report is all.

    Args:
        subject: an outcome, the name of a check, or one of the names above.
        partition: its day, or first day of a month; several are ``partition`` to ``last``.
        severity: of a check: its warnings block nothing.
    """
    first, last = _days(asset, partition, last or partition)
    again = f"ml-platform backfill {product} --from {first} --to {last}" if first else ""
    place = f"landing/{product}/{first}" if first == last else f"landing/{product}/<day>"
    match subject:
        case "missing" | "delivery overdue":
            return [Remedy(f"Put the day's files into {place}, then", again)]
        case "refused" if asset == MODEL:
            return [
                Remedy(
                    "Deliver more labelled days before it, or lower what the message names in the contract, "
                    "then",
                    f"{again} --select {MODEL}",
                )
            ]
        case "refused":
            return [Remedy(f"Correct the delivery in {place}, then", again)]
        case "empty":
            return [Remedy(f"If rows were expected, deliver them to {place}, then", again)]
        case "blocked" | "data_quality" if severity == "error":
            accept = f'ml-platform accept {product} {first} --reason "…"'
            correct = Remedy(f"Correct the delivery in {place}, then", again)
            if first != last:
                return [correct]
            return [
                correct,
                Remedy("Or use the day as it is, and say why", f"{accept} && {again}"),
            ]
        case "rejected":
            undo = f"ml-platform reject {product} {first} --undo"
            return [
                Remedy(f"Deliver the day again to {place}, then", again),
                Remedy("Or take the rejection back", f"{undo} && {again}"),
            ]
        case "held_back":
            return [Remedy("Correct or accept what holds it back, then", again)]
        case "no_model":
            return [Remedy("Nothing, before the first model; once a model serves these days", again)]
        case "performance_above_threshold":
            return [
                Remedy(
                    "The model is trained again by itself, if its sensor is on. To do it now",
                    f"ml-platform train {product}",
                )
            ]
        case "no_drift":
            words = "See in the report what has changed. To learn from the recent past now"
            return [Remedy(words, f"ml-platform train {product}")]
        case "challenger_beats_champion":
            return [
                Remedy("Nothing to do: the champion goes on serving. Why", f"ml-platform history {product}")
            ]
        case "labels overdue":
            return [Remedy(f"Put the files with the labels into {place}, then", again)]
        case "model overdue":
            return [Remedy("Train it", f"{again} --select {MODEL}")]
        case "materialization overdue":
            return [Remedy("Make the days that were delivered", again)]
        case "deliveries gone":
            return [
                Remedy(
                    "Bring the files back; what would be made without them", f"ml-platform doctor {product}"
                )
            ]
        case "run failed":
            return [Remedy("See the run's error, then", again)] if again else []
    return []


def held_back_by(asset: str) -> list[str]:
    """The assets whose same day isn't made when a day of an asset can't be used, in order."""
    held = {asset}
    for name, row in CATALOGUE.items():
        if any(reads.asset in held and reads.over == "same" for reads in row.reads):
            held.add(name)
    return [name for name in CATALOGUE if name in held and name != asset]


def in_words(check_or_outcome: str) -> str:
    """What a finding is about, for a person."""
    return _WORDS.get(check_or_outcome, check_or_outcome.replace("_", " "))


_WORDS = {
    DATA_QUALITY: "data quality",
    PERFORMANCE_ABOVE_THRESHOLD: "performance below the threshold",
    NO_DRIFT: "drift",
    CHALLENGER_BEATS_CHAMPION: "challenger not promoted",
    "missing": "not delivered",
}


def _days(asset: str, first: str, last: str) -> tuple[str, str]:
    """The days of partitions; empty where they are none."""
    try:
        days = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError:
        start, _, end = first.partition(" to ")
        return _days(asset, start, end) if end else ("", "")
    if asset in (DRIFT_REPORT,):
        return str(days[0]), str(last_day_of(days[1]))
    return str(days[0]), str(days[1])
