"""The arrival register: what keeps it, what reads it, and what a late file changes."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.data_engineering import arrivals, landing
from ml_platform.data_engineering.arrivals import ArrivalRegister, RegisterError
from ml_platform.data_engineering.files import FileRules
from ml_platform.data_engineering.knowledge import Seen
from ml_platform.engine.step import quality_of
from ml_platform.graph import deliveries
from ml_platform.storage.ledger import Ledger
from ml_platform_tests.small_platform import D, Platform, shop

DAY = D("2024-01-10")
HEADER = "visit,day,customer,spend,pages,channel\n"
LABELS = "visit,day,bought\n"


class Observer:
    """Somebody who looks at the deliveries of a platform on given mornings."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.register = ArrivalRegister(platform.tables, platform.product)

    def look(self, morning: str, *days: date) -> int:
        now = datetime.fromisoformat(f"{morning}T08:00").replace(tzinfo=UTC)
        folder = self.platform.settings.landing_path
        looks = landing.looks(self.platform.product, folder, days or (DAY,))
        return self.register.observe(folder, looks, now, FileRules.of(self.platform.settings, shop()))

    def seen(self, day: date = DAY) -> Seen:
        folder, product = self.platform.settings.landing_path, self.platform.product
        found = self.register.read([day]).seen(day, landing.looks(product, folder, [day])[day].files)
        assert found is not None
        return found


def row(number: int, spend: int = 1) -> str:
    return f"{number},{DAY},ann,{spend},1,web\n"


def known_on(platform: Platform) -> list[date]:
    platform.run("ards", DAY)
    return list(platform.rows("ards", ["visit"])["label_known_on"])


def test_a_back_dated_file_does_not_change_a_past_that_was_used(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "2024-01-11T0600_rows.csv", HEADER + row(1) + row(2))
    observer.look("2024-01-11")
    platform.deliver(DAY, "2024-01-12T0600_labels.csv", f"{LABELS}1,{DAY},1\n")
    platform.deliver(DAY, "labels.csv", f"{LABELS}2,{DAY},0\n")
    assert known_on(platform) == [D("2024-01-12"), D("2024-01-12")], "nobody has looked yet"
    observer.look("2024-01-20")
    assert known_on(platform) == [D("2024-01-20"), D("2024-01-20")]
    (done,) = platform.run("ards", DAY).days
    assert done.up_to_date
    assert done.metadata["late_files"] == (
        "2024-01-12T0600_labels.csv (known since 2024-01-20), labels.csv (known since 2024-01-20)"
    )


def test_a_file_that_is_dated_ahead_of_its_arrival_is_known_from_then_on_with_a_warning(
    platform: Platform,
) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "2024-01-11T0600_rows.csv", HEADER + row(1) + row(2))
    platform.deliver(DAY, "2024-01-31T0600_labels.csv", f"{LABELS}1,{DAY},1\n")
    observer.look("2024-01-11")
    assert known_on(platform) == [D("2024-01-31"), None]
    (done,) = platform.run("ards", DAY).days
    assert done.outcome == "written", "a warning blocks nothing"
    named = "2024-01-31T0600_labels.csv (there since 2024-01-11)"
    assert done.metadata["files_dated_ahead"] == named
    quality = quality_of(platform.ledger.latest("ards", {DAY})[DAY])
    assert quality is not None
    (warning,) = [result for result in quality.warnings if "dated ahead" in result.problem]
    assert (warning.dimension, warning.severity) == ("timeliness", "warning")
    assert named in warning.problem
    # A later look doesn't change when it came; of a file that comes in time nothing is said.
    observer.look("2024-02-01")
    assert platform.run("ards", DAY).days[0].up_to_date
    (platform.folder(DAY) / "2024-01-31T0600_labels.csv").unlink()
    platform.deliver(DAY, "2024-02-01T0600_labels.csv", f"{LABELS}1,{DAY},0\n")
    observer.look("2024-02-01")
    (done,) = platform.run("ards", DAY).days
    assert "files_dated_ahead" not in done.metadata
    again = quality_of(platform.ledger.latest("ards", {DAY})[DAY])
    assert again is not None
    assert not [result for result in again.results if "dated ahead" in result.problem]


def test_files_that_are_all_there_at_the_first_look_go_by_their_names(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "2024-01-11T0600_rows.csv", HEADER + row(1))
    platform.deliver(DAY, "2024-01-12T0600_labels.csv", f"{LABELS}1,{DAY},1\n")
    assert observer.look("2031-05-05") == 2
    assert known_on(platform) == [D("2024-01-12")]
    assert observer.look("2031-05-06") == 0


def test_a_file_that_is_written_again_with_its_content_is_no_other_file(platform: Platform) -> None:
    observer = Observer(platform)
    rows = platform.deliver(DAY, "rows.csv", HEADER + row(1))
    observer.look("2024-01-11")
    os.utime(rows, (1, 1))
    assert observer.look("2024-01-20") == 1
    assert observer.seen().late_files == {}
    rows.write_text(HEADER + row(1, spend=2))  # as long as before
    observer.look("2024-01-21")
    assert observer.seen().late_files == {"rows.csv": D("2024-01-21")}
    rows.write_text(HEADER + row(1))
    observer.look("2024-01-22")
    assert observer.seen().late_files == {}, "what it holds was known before"


def test_a_file_that_is_packed_afterwards_is_no_other_file(platform: Platform) -> None:
    observer = Observer(platform)
    rows = platform.deliver(DAY, "rows.csv", HEADER + row(1))
    observer.look("2024-01-11")
    platform.deliver(DAY, "rows.csv.gz", gzip.compress(rows.read_bytes()))
    rows.unlink()
    assert observer.look("2024-01-20") == 1
    assert observer.seen().late_files == {}
    platform.deliver(DAY, "rows.csv.gz", gzip.compress((HEADER + row(2)).encode()))
    observer.look("2024-01-21")
    assert observer.seen().late_files == {"rows.csv.gz": D("2024-01-21")}


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b", gzip.compress(b"abc" * 99, mtime=0)[:-9], b"\x1f\x8bxyz" * 9]
)
def test_a_file_that_breaks_off_is_seen(platform: Platform, content: bytes) -> None:
    platform.deliver(DAY, "rows.csv.gz", content)
    assert Observer(platform).look("2024-01-11") == 1


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 16, 20, 21, 100, 300])
def test_large_files_are_told_apart_by_parts_of_them(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrivals, "BLOCK_BYTES", 4)
    monkeypatch.setattr(arrivals, "_WHOLE_BLOCKS", 4)
    path, rules = tmp_path / "a.csv", FileRules(root=None)
    content = bytes(n % 251 for n in range(size))
    path.write_bytes(content)
    before = arrivals._content(path, rules)
    for place in range(size):
        path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
        block = place // 4
        is_hashed = block <= 4 or block & (block - 1) == 0 or place >= size - 4
        assert (arrivals._content(path, rules) != before) == is_hashed, f"byte {place} of {size}"
    path.write_bytes(content + b"a")
    assert arrivals._content(path, rules) != before
    path.write_bytes(gzip.compress(content))
    assert arrivals._content(path, rules) == before, "packed, it is the same"


def test_what_cannot_be_opened_is_seen_and_stops_nobody(platform: Platform, tmp_path: Path) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "rows.csv", HEADER + row(1))
    (platform.folder(DAY) / "folder.csv").mkdir()
    secret = tmp_path / "secret.csv"
    secret.write_text("secret")
    (platform.folder(DAY) / "link.csv").symlink_to(secret)
    os.mkfifo(platform.folder(DAY) / "pipe.csv")
    assert observer.look("2024-01-11") == 4
    assert observer.look("2024-01-12") == 0


def test_a_register_is_written_read_and_forgotten(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, 'a "b", c.csv', HEADER + row(1))
    observer.look("2024-01-11")
    platform.deliver(DAY, "z.csv", HEADER + row(2))
    observer.look("2024-01-15")
    text = io.StringIO()
    assert observer.register.write_csv(text) == 2
    before = observer.seen()
    assert observer.register.forget([DAY + timedelta(days=1)]) == 0
    assert observer.register.forget([DAY]) == 2
    assert observer.register.read([DAY]).days == {}
    assert observer.register.read_csv(text.getvalue().splitlines(keepends=True)) == 2
    assert observer.register.read_csv(text.getvalue().splitlines(keepends=True)) == 0
    assert observer.seen() == before
    assert before.late_files == {"z.csv": D("2024-01-15")}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: no arrival register"),
        (["visit,day\n"], "line 1: no arrival register"),
        (["day,file,size,modified,content,seen_on\n", "2024-01-10,a.csv,1,1,x\n"], "line 2: "),
        (["day,file,size,modified,content,seen_on\n", "2024-01-10,a.csv,one,1,x,2024-01-11\n"], "line 2: "),
        (["day,file,size,modified,content,seen_on\n", "2024-01-40,a.csv,1,1,x,2024-01-11\n"], "line 2: "),
    ],
)
def test_what_is_no_register_is_refused_as_a_whole(
    platform: Platform, lines: Sequence[str], message: str
) -> None:
    register = ArrivalRegister(platform.tables, platform.product)
    with pytest.raises(RegisterError, match=message):
        register.read_csv(lines)
    assert register.stamp() is None


def test_the_landing_sensor_has_a_day_made_anew_whose_file_came_late(platform: Platform) -> None:
    register = ArrivalRegister(platform.tables, platform.product)
    ledger = Ledger(platform.tables, platform.product.name)

    def pending() -> list[date]:
        made_from = {day: record.inputs for day, record in ledger.latest("ards").items()}
        found = deliveries.pending(
            platform.product, platform.settings, made_from, register=register, watching=True
        )
        return list(found.states)

    platform.deliver(DAY, "2024-01-11T0600_rows.csv", HEADER + row(1))
    Observer(platform).look("2024-01-11")
    assert pending() == [DAY]
    platform.run("ards", DAY)
    assert pending() == []
    platform.deliver(DAY, "2024-01-12T0600_labels.csv", f"{LABELS}1,{DAY},1\n")
    platform.run("ards", DAY)  # somebody was faster than the sensor, which has seen nothing
    assert list(platform.rows("ards")["label_known_on"]) == [D("2024-01-12")]
    assert pending() == [DAY]
    platform.run("ards", DAY)
    assert pending() == []
    (late,) = platform.rows("ards")["label_known_on"]
    assert late >= datetime.now(tz=UTC).date() - timedelta(days=1)


def test_a_lost_register_leaves_the_names_to_say(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "2024-01-11T0600_rows.csv", HEADER + row(1))
    observer.look("2024-01-11")
    platform.deliver(DAY, "2024-01-12T0600_labels.csv", f"{LABELS}1,{DAY},1\n")
    observer.look("2024-01-20")
    assert known_on(platform) == [D("2024-01-20")]
    observer.register.forget([DAY])
    assert known_on(platform) == [D("2024-01-12")]


def test_a_clock_that_went_backwards_has_seen_nothing_earlier(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "a.csv", HEADER + row(1))
    observer.look("2024-06-01")
    platform.deliver(DAY, "b.csv", HEADER + row(2))
    observer.look("2024-02-01")
    assert observer.seen().late_files == {}


def test_a_name_that_no_table_can_hold_costs_its_own_day(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "a.csv", HEADER + row(1))
    (platform.folder(DAY) / os.fsdecode(b"\xff.csv")).write_text(HEADER)
    assert observer.look("2024-01-11") == 1


def test_files_that_a_look_has_no_time_for_are_left_to_the_next(platform: Platform) -> None:
    observer = Observer(platform)
    for name in "abc":
        platform.deliver(DAY, f"{name}.csv", HEADER + row(1))
    looks = landing.looks(platform.product, platform.settings.landing_path, [DAY])
    now, rules = datetime(2024, 1, 11, 8, tzinfo=UTC), FileRules.of(platform.settings, shop())
    folder = platform.settings.landing_path
    assert observer.register.observe(folder, looks, now, rules, seconds=-1) == 0
    assert observer.register.observe(folder, looks, now, rules) == 3


def test_alerts_hold_a_day_with_a_late_file_for_what_it_is(platform: Platform) -> None:
    observer = Observer(platform)
    platform.deliver(DAY, "2024-01-11T0600_rows.csv", HEADER + row(1))
    observer.look("2024-01-11")
    platform.deliver(DAY, "2024-01-12T0600_labels.csv", f"{LABELS}1,{DAY},1\n")
    observer.look("2024-01-12")
    platform.run("ards", DAY)
    made_from = {day: record.inputs for day, record in platform.ledger.latest("ards").items()}
    # Whoever only looks, as alerts do, or the sensor where nobody watches, reads what is kept all the same.
    found = deliveries.pending(
        platform.product, platform.settings, made_from, register=observer.register, watching=False
    )
    assert found.states == {}


def test_a_file_that_replaces_others_is_not_passed_over_by_a_later_date(platform: Platform) -> None:
    platform.deliver(DAY, "2024-01-13T0600_rows.csv", HEADER + row(1))
    platform.deliver(DAY, "z_fix.csv", HEADER + row(2))
    platform.deliver(DAY, "z_fix.csv.manifest.yaml", "replaces: true\n")
    (done,) = platform.run("ards", DAY).days
    assert done.outcome == "refused"
    assert "begin its name with the date on which it was delivered" in done.reason
    for suffix in ("", ".manifest.yaml"):
        fix = platform.folder(DAY) / f"z_fix.csv{suffix}"
        fix.rename(fix.with_name(f"2024-01-14_fix.csv{suffix}"))
    platform.run("ards", DAY)
    assert list(platform.rows("ards")["visit"]) == [2]
