"""Since when a delivered file is known, and which of several files counts."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.contract.days import DayRange
from ml_platform.contract.loading import ContractError
from ml_platform.data_engineering import day_folders, knowledge, landing
from ml_platform.data_engineering.knowledge import Arrival, Arrivals, FileFacts
from ml_platform_tests.small_platform import D, Platform, shop

DAY = D("2024-01-10")
HEADER = "visit,day,customer,spend,pages,channel\n"


@pytest.mark.parametrize(
    ("name", "rows", "labels"),
    [
        ("2024-01-11T0600_rows.csv", "2024-01-11", "2024-01-11"),
        ("2024-01-13_fix.csv", "2024-01-13", "2024-01-13"),
        ("2024-01-13T06_fix.csv", "2024-01-13", "2024-01-13"),
        ("2024-01-13T10:00_fix.csv", "2024-01-13", "2024-01-13"),
        ("2024-01-13T1001_fix.csv", "2024-01-14", "2024-01-14"),
        ("2024-01-13T235959_fix.csv", "2024-01-14", "2024-01-14"),
        ("2024-01-13T9900_fix.csv", "2024-01-13", "2024-01-13"),
        # A date that can't be that of a delivery says nothing, as no date does.
        ("2024-01-10_labels.csv", "2024-01-11", "2024-01-14"),
        ("2024-01-09_labels.csv", "2024-01-11", "2024-01-14"),
        ("2024-01-10T1500_rows.csv", "2024-01-11", "2024-01-11"),
        ("rows.csv", "2024-01-11", "2024-01-14"),
        ("2024-02-30_rows.csv", "2024-01-11", "2024-01-14"),
        ("2024-01-111_rows.csv", "2024-01-11", "2024-01-14"),
        ("9999-12-31T2300_rows.csv", "9999-12-31", "9999-12-31"),
        ("0001-01-01_rows.csv", "2024-01-11", "2024-01-14"),
    ],
)
def test_the_head_of_a_name_says_since_when_a_file_is_known(name: str, rows: str, labels: str) -> None:
    product = shop(source__label_delay_days=3)
    assert knowledge.known(product, DAY, name) == knowledge.Known(D(rows), D(labels))


@pytest.mark.parametrize(
    ("ends", "name", "known"),
    [
        ("00:00", "2024-01-11T0000_a.csv", "2024-01-11"),
        ("00:00", "2024-01-11T0001_a.csv", "2024-01-12"),
        ("00:00", "2024-01-11_a.csv", "2024-01-11"),
        ("23:59", "2024-01-11T2359_a.csv", "2024-01-11"),
        (14 * 60 + 30, "2024-01-11T1430_a.csv", "2024-01-11"),  # YAML reads 14:30 as minutes
        ("9:05", "2024-01-11T0906_a.csv", "2024-01-12"),
    ],
)
def test_the_contract_says_when_a_morning_ends(ends: object, name: str, known: str) -> None:
    assert knowledge.known(shop(source__morning_ends=ends), DAY, name).rows == D(known)


@pytest.mark.parametrize("ends", ["24:00", "10", "10:60", 24 * 60, -1, True, ""])
def test_no_other_time_of_day_is_accepted(ends: object) -> None:
    with pytest.raises((ContractError, ValueError), match="morning_ends"):
        shop(source__morning_ends=ends)


def test_a_moment_belongs_to_the_morning_of_its_time_zone() -> None:
    product = shop(timezone="America/Chicago")
    at = ZoneInfo("UTC")
    assert knowledge.morning_of(product, datetime(2024, 1, 11, 16, 0, tzinfo=at)) == D("2024-01-11")
    assert knowledge.morning_of(product, datetime(2024, 1, 11, 16, 1, tzinfo=at)) == D("2024-01-12")
    assert knowledge.morning_of(product, datetime(2024, 1, 11, 3, 0, tzinfo=at)) == D("2024-01-11")


def test_a_dated_correction_counts_above_an_undated_original(platform: Platform) -> None:
    platform.deliver(DAY, "rows.csv", HEADER + f"1,{DAY},ann,1,1,web\n")
    platform.deliver(DAY, "2024-01-15_fix.csv", HEADER + f"1,{DAY},ann,9,1,web\n")
    platform.run("ards", DAY)
    assert list(platform.rows("ards")["spend"]) == [9.0]


def test_labels_that_are_dated_on_their_event_day_are_not_known_that_day(platform: Platform) -> None:
    platform.deliver(DAY, "2024-01-11_rows.csv", HEADER + f"1,{DAY},ann,1,1,web\n")
    platform.deliver(DAY, f"{DAY}_labels.csv", f"visit,day,bought\n1,{DAY},1\n")
    platform.run("ards", DAY)
    assert list(platform.rows("ards")["label_known_on"]) == [D("2024-01-12")]


@st.composite
def _deliveries(draw: st.DrawFn) -> tuple[dict[str, bool], int]:
    """Names of files, each with whether it brings labels only, and the delay."""
    stems = draw(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True))
    names = {}
    for stem in stems:
        offset = draw(st.integers(-2, 5) | st.none())
        hour = draw(st.sampled_from(["", "T0600", "T1000", "T1200"]))
        head = "" if offset is None else f"{DAY + timedelta(days=offset)}{hour}_"
        names[f"{head}{stem}.csv"] = draw(st.booleans())
    return names, draw(st.integers(0, 4))


@given(_deliveries())
def test_files_count_in_the_order_in_which_they_became_known(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[dict[str, bool], int]
) -> None:
    names, delay = made
    names = {**names, "z_rows.csv": False}
    product = shop(source__label_delay_days=delay)
    root = tmp_path_factory.mktemp("landing")
    folder = day_folders.folder_of(product, root, DAY)
    folder.mkdir(parents=True)
    for name, is_labels in names.items():
        folder.joinpath(name).write_text("visit,day,bought\n" if is_labels else HEADER)

    def known(name: str) -> date:
        head, found, _ = name.partition("_")
        day, _, hour = head.partition("T")
        if found and len(day) == 10 and date.fromisoformat(day) + timedelta(hour == "1200") > DAY:
            return date.fromisoformat(day) + timedelta(hour == "1200")
        return DAY + timedelta(days=1 + (delay if names[name] else 0))

    delivery = landing.scan(product, root, [DAY])[DAY]
    assert [file.name for file in delivery.files] == sorted(names, key=lambda name: (known(name), name))
    assert [file.number for file in delivery.files] == list(range(len(names)))


# -- what came after the first look --------------------------------------------------------------------


def _arrivals(*seen: tuple[str, str]) -> Arrivals:
    return Arrivals({DAY: [Arrival(FileFacts(name, 1, 1), name, D(day)) for name, day in seen]})


@pytest.mark.parametrize(
    ("seen", "late"),
    [
        ([("a.csv", "2024-01-11"), ("b.csv", "2024-01-11")], {}),
        ([("a.csv", "2024-01-11"), ("b.csv", "2024-01-13")], {"b.csv": D("2024-01-13")}),
        # Who looks before the day is over has seen nothing that it lacks.
        ([("a.csv", "2024-01-09"), ("b.csv", "2024-01-11")], {}),
        ([("a.csv", "2024-01-09"), ("b.csv", "2024-01-12")], {"b.csv": D("2024-01-12")}),
        # A history that is looked at years later was all there.
        ([("a.csv", "2031-01-01"), ("b.csv", "2031-01-01")], {}),
        ([("a.csv", "2031-01-01"), ("b.csv", "2031-01-02")], {"b.csv": D("2031-01-02")}),
    ],
)
def test_what_came_after_the_first_look_came_late(seen: list[tuple[str, str]], late: dict[str, date]) -> None:
    found = _arrivals(*seen).seen(DAY, [FileFacts("a.csv", 1, 1), FileFacts("b.csv", 1, 1)])
    assert found is not None
    assert found.late_files == late


def test_nobody_has_looked_at_a_day_of_which_nothing_is_known() -> None:
    assert Arrivals().seen(DAY, [FileFacts("a.csv", 1, 1)]) is None
    found = _arrivals(("a.csv", "2024-01-11")).seen(DAY, [FileFacts("new.csv", 1, 1)])
    assert found is not None
    assert found.late_files == {}, "a file that nobody has seen yet is known as its name says"


def test_a_late_file_is_known_since_it_came_whatever_its_name_says() -> None:
    seen = _arrivals(("a.csv", "2024-01-11"), ("2024-01-12_back.csv", "2024-01-20")).seen(
        DAY, [FileFacts("a.csv", 1, 1), FileFacts("2024-01-12_back.csv", 1, 1)]
    )
    product = shop()
    assert knowledge.known(product, DAY, "2024-01-12_back.csv", seen).labels == D("2024-01-20")
    assert knowledge.known(product, DAY, "a.csv", seen) == knowledge.known(product, DAY, "a.csv")


def test_a_file_of_the_future_is_known_from_its_date_on() -> None:
    seen = _arrivals(("a.csv", "2024-01-11"), ("2030-01-01_b.csv", "2024-01-20")).seen(
        DAY, [FileFacts("2030-01-01_b.csv", 1, 1)]
    )
    assert knowledge.known(shop(), DAY, "2030-01-01_b.csv", seen).rows == D("2030-01-01")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 9)), min_size=1, max_size=8))
def test_the_order_in_which_a_register_was_written_changes_nothing(seen: list[tuple[str, int]]) -> None:
    days = DayRange(D("2024-01-11"), D("2024-01-20"))
    entries = [(name, str(list(days)[number])) for name, number in seen]
    files = [FileFacts(name, 1, 1) for name in "abc"]
    assert _arrivals(*entries).seen(DAY, files) == _arrivals(*reversed(entries)).seen(DAY, files)
