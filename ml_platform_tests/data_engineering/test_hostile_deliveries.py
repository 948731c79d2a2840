"""Random deliveries of random contracts, most of them hostile: a clear refusal, or what another reader finds.

``ML_PLATFORM_TEST_DELIVERIES=2000`` tries more of them. A case that fails is shown with its seed, contract
and files; ``case(seed)`` makes it again.
"""

from __future__ import annotations

import os
import re
import resource
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ml_platform.contract.product import Product
from ml_platform.data_engineering import ards, ards_in_tasks, buckets, fast_reader, landing, limits, quoting
from ml_platform.data_engineering.ards_in_tasks import Places
from ml_platform.data_engineering.day_statistics import Counting
from ml_platform.data_engineering.delivery_file import DeliveryFile
from ml_platform.data_engineering.files import FileRules, shown
from ml_platform.data_engineering.landing import Delivery
from ml_platform.data_engineering.parsing import parse_file
from ml_platform.data_engineering.resolution import Account
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform.spark import tasks
from ml_platform.storage.day_files import DayFiles
from ml_platform_tests.hostile_deliveries import (
    DAY,
    FILE_BYTES,
    LINE_CHARACTERS,
    WRONG,
    Case,
    Read,
    Refused,
    Unsure,
    case,
    read,
)
from ml_platform_tests.tasks_here import TasksHere

CASES = int(os.environ.get("ML_PLATFORM_TEST_DELIVERIES", "200"))
TOGETHER = 20
#: More than the tests' own modules, which come in with the first case.
MEMORY_KILOBYTES = 400 << 10

Row = dict[str, Any]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "spare_next_task", lambda: None)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, CASES, TOGETHER))
def test_a_random_delivery_is_refused_with_its_file_or_read_as_another_reader_reads_it(
    tmp_path: Path, first: int
) -> None:
    cases = [case(seed) for seed in range(first, min(first + TOGETHER, CASES))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed, made in enumerate(cases, start=first):
        try:
            with pytest.MonkeyPatch.context() as patch:
                small_pieces(patch, seed)
                check(made, tmp_path / str(seed))
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{made}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KILOBYTES


def test_the_deliveries_are_reproducible_and_of_all_kinds() -> None:
    made = [case(seed) for seed in range(200)]
    assert [str(one) for one in made[:5]] == [str(case(seed)) for seed in range(5)]
    assert {wrong for one in made for wrong in one.wrong} == set(WRONG)
    assert 20 < sum(not one.wrong for one in made) < 100


def small_pieces(patch: pytest.MonkeyPatch, seed: int) -> None:
    """Have tiny files be read in several pieces, and days brought into buckets, as large ones are."""
    patch.setattr(limits, "BLOCK_BYTES", (150, 600, limits.BLOCK_BYTES)[seed % 3])
    patch.setattr(limits, "BATCH_RECORDS", (3, limits.BATCH_RECORDS)[seed % 2])
    patch.setattr(quoting, "_STRIDE_BYTES", (64, quoting._STRIDE_BYTES)[seed % 2])
    patch.setattr(buckets, "BUCKET_BYTES", (60, buckets.BUCKET_BYTES, 400)[seed // 2 % 3])
    patch.setattr(buckets, "PIECE_BYTES", (200, 50)[seed % 2])


# -- one delivery ------------------------------------------------------------------------------------


def check(made: Case, home: Path) -> None:
    product, root = made.product, home / "landing"
    (home / "secret.csv").parent.mkdir(parents=True)
    (home / "secret.csv").write_text("visit,secret\n")
    folder = made.write(root)
    rules = FileRules(root=str(root), line_characters=LINE_CHARACTERS, file_bytes=FILE_BYTES)
    wanted = expected(folder, product)
    delivery = landing.scan(product, root, [DAY], rules).get(DAY)
    if not made.wrong:
        assert not wanted.refused, "a right delivery"
    if delivery is None:
        assert not any(not found.labels_only for found in wanted.files.values())
        return
    reason = delivery.problem
    if reason is None:
        compare_records(delivery, product, wanted)
        done = ards_in_tasks.write(
            TasksHere,  # type: ignore[arg-type]
            product,
            [delivery],
            Places(*(DayFiles(str(home / name)) for name in ("rows", "quarantine", "versions"))),
            Counting(product.label, ards.columns(product)),
        )[DAY]
        reason = done.refusal.reason if done.refusal else None
        if reason is None:
            assert not wanted.refused, f"not refused, but should be for {wanted.refused}"
            compare_day(done, home, product, wanted)
            for file in delivery.files:
                compare_landed(file, product, home / f"landed{file.number}", rules)
            return
    assert reason.isprintable()
    assert "secret" not in reason.replace("secret.csv", "")
    assert any(shown(name) in reason for name in {*wanted.refused, *wanted.unsure}), (
        f"refused: {reason!r}; should be for {wanted.refused}"
    )


@dataclass
class Wanted:
    """What is to be found: the files that refuse the day, and those that may; else the files' records."""

    refused: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    files: dict[str, Read] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)


def expected(folder: Path, product: Product) -> Wanted:
    """The records of a folder's files by another reader."""
    names = sorted(path.name for path in folder.iterdir())
    csv = [name for name in names if name.lower().endswith((".csv", ".csv.gz")) and not name.startswith(".")]
    found: dict[str, Read | Exception] = {}
    for name in csv:
        try:
            found[name] = read(content_of(folder / name, name), product)
        except (Unsure, Refused) as error:
            found[name] = error
    day, delay = date.fromisoformat(folder.name), product.source.label_delay_days

    def known(name: str) -> tuple[date, str]:
        """Sorts files as they count: by when they are known, which names may say, then by name."""
        file = found[name]
        late = delay if isinstance(file, Read) and file.labels_only else 0
        match = re.match(r"(\d{4}-\d\d-\d\d)(?:T(\d\d)(\d\d))?", name)
        if match and date.fromisoformat(match[1]) > day:
            is_later = match[2] is not None and (match[2], match[3]) > ("10", "00")
            return date.fromisoformat(match[1]) + timedelta(days=is_later), name
        return day + timedelta(days=1 + late), name

    csv.sort(key=known)
    wanted, last = Wanted(), -1
    for name in names:
        for suffix in (".manifest.yaml", ".manifest.yml", ".manifest.json"):
            if name.lower().endswith(suffix) and csv:
                of = name[: -len(suffix)]
                try:
                    said = yaml.safe_load((folder / name).read_bytes().decode("utf-8-sig"))
                except (yaml.YAMLError, UnicodeDecodeError):
                    said = None
                if (
                    of not in csv
                    or said not in ({"replaces": True}, {"replaces": False})
                    or said["replaces"] == 7
                ):
                    wanted.refused.add(name)
                elif said["replaces"]:
                    last = max(last, csv.index(of))
    wanted.replaced = set(csv[: max(last, 0)])
    for name in csv:
        file = found[name]
        if isinstance(file, Read) and last >= 0 and name == csv[last] and file.labels_only:
            file = Refused("labels replace nothing")
        if isinstance(file, Read):
            wanted.files[name] = file
        elif isinstance(file, Unsure):
            wanted.unsure.add(name)
        else:
            (wanted.unsure if name in wanted.replaced else wanted.refused).add(name)
    return wanted


def content_of(path: Path, name: str) -> bytes:
    try:
        name.encode()
        root = path.parents[2].resolve()
        if not path.resolve(strict=True).is_relative_to(root) or not stat.S_ISREG(path.stat().st_mode):
            raise Refused("no file of the landing folder")
    except (OSError, RuntimeError, UnicodeError) as error:
        raise Refused(str(error)) from error
    return path.read_bytes()


def rows_of(file: DeliveryFile, product: Product) -> list[Row]:
    return [row for batch in parse_file(file, product) for row in batch.to_pylist()]


def compare_records(delivery: Delivery, product: Product, wanted: Wanted) -> None:
    """Each record of each file is what the other reader says, by either of our readers."""
    for file in delivery.files:
        rows = rows_of(file, product)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fast_reader, "read_fast", _never)
            exact = rows_of(file, product)
        is_whole = not any(row["_kind"] == "unreadable" for row in rows)
        # Of a file that can't be read to its end the records before it are worth nothing, and how many of
        # them come depends on the sizes of batches.
        assert exact == rows if is_whole else exact[-1] == rows[-1], f"{file.name}: the two readers differ"
        found = wanted.files.get(file.name)
        assert found is not None or file.name in wanted.unsure or not is_whole, f"{file.name} was read"
        if found is None:
            continue
        assert is_whole, f"{file.name}: {rows[-1]['_reason']}"
        assert file.labels_only == found.labels_only
        assert len(rows) == len(found.entries), (
            f"{file.name}: {len(rows)} records, {len(found.entries)} wanted"
        )
        for entry, row in zip(found.entries, rows, strict=True):
            if row["_kind"] == "bad" and entry.raw.isprintable():
                assert row["_raw"] == entry.raw
            if entry.is_loose:
                continue
            given = None if row["_kind"] == "bad" else {name: row[name] for name in entry.values or {}}
            assert given == entry.values, (
                f"{file.name}: {entry.raw!r}: {row['_reason'] or given}, {entry.values}"
            )
            assert given is None or all(type(value) is type(given[name]) for name, value in given.items())


def _never(*_: object) -> Any:
    raise pa.ArrowInvalid("not in this test")


def compare_day(done: ards_in_tasks.WrittenDay, home: Path, product: Product, wanted: Wanted) -> None:
    """The account adds up, and the rows are the newest of each key with the newest label."""
    written = list(_written(home / "rows", done.rows))
    quarantine = list(_written(home / "quarantine", done.quarantine))
    account = done.account
    assert account.quarantined == len(quarantine)
    assert sum(part.rows for part in done.parts) == len(written)
    superseded = account.delivered - sum(
        (len(written), account.labels_applied, account.labels_not_yet, account.quarantined)
    )
    assert superseded >= 0
    if wanted.unsure or any(entry.is_loose for file in wanted.files.values() for entry in file.entries):
        return
    rows: dict[Any, Row] = {}
    newest: dict[Any, int] = {}
    labels: list[tuple[Any, bool]] = []
    delivered = bad = pending = 0
    for name, file in wanted.files.items():
        delivered += len(file.entries)
        if name in wanted.replaced and not file.labels_only:
            continue
        for entry in file.entries:
            if entry.values is None:
                bad += 1
                continue
            key, label = entry.values["visit"], entry.values.get("bought")
            if label is not None:
                newest[key] = label
            if not file.labels_only:
                rows[key] = entry.values
            elif label is None:
                pending += 1
            else:
                labels.append((key, name in wanted.replaced))
    orphans = sum(key not in rows and not earlier for key, earlier in labels)
    assert account == Account(
        delivered=delivered,
        labels_applied=len({key for key, _ in labels if key in rows}),
        quarantined=bad + orphans,
        labels_not_yet=pending,
    )
    assert {row["visit"]: {name: row[name] for name in product.source.columns} for row in written} == {
        key: {**values, "bought": newest.get(key)} for key, values in rows.items()
    }
    assert len(written) == len(rows)


def _written(folder: Path, files: list[Any]) -> Iterator[Row]:
    for file in files:
        yield from pq.read_table(folder / file.path, partitioning=None).to_pylist()


def compare_landed(file: DeliveryFile, product: Product, home: Path, rules: FileRules) -> None:
    """``land`` makes deliveries of a file that have its records, or says why it can't."""
    apart = file.number % 2 == 1
    path = Path(file.path)
    problem = None
    try:
        split_history(product, [path], home, labels_apart=apart, rules=rules)
    except SplitError as error:
        problem = str(error)
    if problem is not None:
        assert shown(str(path)) in problem
        assert problem.isprintable()
        assert not any(home.iterdir())
        return
    given, landed = rows_of(file, product), list(_landed(product, home))
    if file.labels_only:
        return
    assert len(landed) == len(given), "records were lost, or made"
    if not apart:
        of_day = [row for row in landed if row["_day"] == DAY]
        assert _usable(of_day) == _usable(given)


def _usable(rows: list[Row]) -> list[Mapping[str, Any]]:
    return [
        {name: value for name, value in row.items() if name[0] != "_" and name != "label_known_on"}
        for row in rows
        if row["_kind"] == "row"
    ]


def _landed(product: Product, home: Path) -> Iterator[Row]:
    """The records of the files with rows."""
    for delivery in landing.scan(product, home, landing.delivered_days(product, home)).values():
        assert delivery.refusal is None
        for file in delivery.files:
            if not file.labels_only:
                yield from rows_of(file, product)
