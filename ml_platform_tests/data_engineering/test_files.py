"""Whatever lies in the landing folder costs its own day at most: pipes, links, bombs, growing files."""

from __future__ import annotations

import gzip
import os
import socket
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ml_platform.data_engineering import absences, buckets, files, landing, parsing
from ml_platform.data_engineering.delivery_parts import bucket_count
from ml_platform.data_engineering.files import FileRules, UnreadableFile
from ml_platform.data_engineering.parsing import parse_file
from ml_platform.data_engineering.splitting import SplitError, split_history
from ml_platform.engine.steps.ards import CHANGES
from ml_platform.settings import Settings
from ml_platform_tests.small_platform import CARRIERS, D, Platform, carry_by, days, shop

DAY, OTHER = D("2024-01-01"), D("2024-01-02")
HEADER = "visit,day,customer,spend,pages,channel\n"
ROW = "1,{day},ann,1,1,web\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "landing" / "shop" / str(DAY)
    path.mkdir(parents=True)
    return path


def rows(day: date = DAY, count: int = 1) -> str:
    return HEADER + "".join(f"{n},{day},c{n},1,1,web\n" for n in range(count))


def refusal(folder: Path, rules: FileRules | None = None) -> str | None:
    """Why the day can't be used, be it its header or its content."""
    product = shop()
    delivery = landing.scan(product, folder.parents[1], [DAY], rules)[DAY]
    if delivery.refusal:
        return delivery.refusal
    for file in delivery.files:
        for batch in parse_file(file, product):
            for record in batch.to_pylist():
                if record["_kind"] in ("unreadable", "unreachable"):
                    return str(record["_reason"])
    return None


# -- what is opened ----------------------------------------------------------------------------------


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket is short
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


def make_folder(path: Path) -> None:
    path.mkdir()
    (path / "part-0.csv").write_text(rows())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [make_pipe, make_socket, make_folder])
def test_what_is_no_regular_file_refuses_its_day_without_waiting(folder: Path, make: Any) -> None:
    (folder / "a.csv").write_text(rows())
    make(folder / "b.csv")
    assert refusal(folder) == f"b.csv: {files.NOT_REGULAR}"
    with pytest.raises(SplitError, match=r"b\.csv: is no regular file"):
        split_history(shop(), [folder / "b.csv"], folder.parents[1])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_a_link_to_a_device_refuses_its_day(folder: Path, device: str) -> None:
    (folder / "b.csv").symlink_to(device)
    assert refusal(folder) == f"b.csv: {files.LEADS_OUT}"
    anywhere = FileRules(root=None)
    assert refusal(folder, anywhere) == f"b.csv: {files.NOT_REGULAR}"


def test_a_link_out_of_the_landing_folder_is_followed_only_if_a_setting_allows_it(folder: Path) -> None:
    outside = folder.parents[2] / "elsewhere.csv"
    outside.write_text(rows())
    (folder / "a.csv").symlink_to(outside)
    assert refusal(folder) == f"a.csv: {files.LEADS_OUT}"
    assert refusal(folder, FileRules(root=None)) is None


def test_a_link_within_the_landing_folder_is_followed(folder: Path) -> None:
    kept = folder.parents[1] / "archive" / "a.csv"
    kept.parent.mkdir()
    kept.write_text(rows())
    (folder / "a.csv").symlink_to(os.path.relpath(kept, folder))
    assert refusal(folder) is None


@pytest.mark.parametrize("level", ["day", "product"])
def test_a_folder_that_is_a_link_out_refuses_its_days_and_shows_nothing_of_it(
    tmp_path: Path, level: str
) -> None:
    outside = tmp_path / "home" / str(DAY)
    outside.mkdir(parents=True)
    (outside / "secret-plan.txt").write_text("x")
    (outside.parent / "20240102").mkdir()
    (outside / "a.csv").write_text(rows())
    root = tmp_path / "landing"
    link = root / "shop" / str(DAY) if level == "day" else root / "shop"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if level == "day" else outside.parent)
    product = shop()
    delivery = landing.scan(product, root, [DAY])[DAY]
    assert delivery.refusal == f"{root / 'shop' / str(DAY)} {files.LEADS_OUT}"
    assert landing.delivered_days(product, root) == [DAY]
    assert delivery.stamp == landing.stamp(product, root, DAY)
    allowed = landing.scan(product, root, [DAY], FileRules(root=None))[DAY]
    assert (allowed.refusal, allowed.unread) == (None, ("secret-plan.txt",))
    (outside / "a.csv").unlink()
    said = absences.why_absent(product, root, [DAY, OTHER])
    assert said[DAY] == f"no rows have been delivered to {root / 'shop' / str(DAY)}"
    if level == "product":
        assert said[OTHER] == f"no rows have been delivered to {root / 'shop' / str(OTHER)}"


@pytest.mark.parametrize("rules", [None, FileRules(root=None)])
def test_a_refusal_never_quotes_what_a_link_leads_to(folder: Path, rules: FileRules | None) -> None:
    secret = folder.parents[2] / "shadow"
    secret.write_text("root:$6$hash,visit\n")
    (folder / "a.csv").symlink_to(secret)
    found = refusal(folder, rules)
    assert found is not None
    assert "root" not in found.replace("DELIVERY", "")
    assert "visit" not in found


def test_a_landing_folder_may_itself_be_a_link(folder: Path) -> None:
    (folder / "a.csv").write_text(rows())
    link = folder.parents[2] / "link"
    link.symlink_to(folder.parents[1])
    assert landing.scan(shop(), link, [DAY])[DAY].refusal is None


def test_links_that_lead_round_or_nowhere_refuse_their_day(folder: Path) -> None:
    (folder / "a.csv").symlink_to(folder / "b.csv")
    assert "No such file" in str(refusal(folder))
    (folder / "b.csv").symlink_to(folder / "a.csv")
    assert "symbolic links" in str(refusal(folder))


def test_a_file_that_is_replaced_by_a_pipe_before_a_task_reads_it_is_refused(folder: Path) -> None:
    product = shop()
    (folder / "a.csv").write_text(rows())
    (file,) = landing.scan(product, folder.parents[1], [DAY])[DAY].files
    (folder / "a.csv").unlink()
    os.mkfifo(folder / "a.csv")
    (record,) = [row for batch in parse_file(file, product) for row in batch.to_pylist()]
    assert (record["_kind"], record["_reason"]) == ("unreadable", f"a.csv: {files.NOT_REGULAR}")


def test_a_name_that_is_not_utf_8_refuses_its_day_in_words_that_can_be_stored(folder: Path) -> None:
    (folder / "good.csv").write_text(rows())
    Path(os.fsdecode(bytes(folder) + b"/caf\xe9.csv")).write_text(rows())
    found = str(refusal(folder))
    assert found == "caf\\xe9.csv: its name is not UTF-8; rename it"
    found.encode()
    assert landing.stamp(shop(), folder.parents[1], DAY)


def test_a_name_with_a_line_break_is_read_and_shown_in_one_line(folder: Path) -> None:
    (folder / "a\nb.csv").write_text("x\n")
    assert str(refusal(folder)).startswith("a\\nb.csv: no column of the contract")
    (folder / "a\nb.csv").write_text(rows())
    assert refusal(folder) is None


# -- how much is read --------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.parametrize("head", ["", HEADER, HEADER + ROW.format(day=DAY)])
def test_gigabytes_of_nulls_refuse_their_day_in_little_memory(folder: Path, head: str) -> None:
    path = folder / "a.csv"
    path.write_text(head)
    os.truncate(path, 5 << 30)
    limit = 8 << 20
    assert refusal(folder) == (
        f"a.csv: has a line of more than {limit:,} characters; if that is right, raise "
        "ML_PLATFORM_DELIVERY_LINE_CHARACTERS"
    )
    with pytest.raises(SplitError, match=r"a\.csv: has a line of more than"):
        split_history(shop(), [path], folder.parents[1] / "other")


@pytest.mark.parametrize("line_break", [b"", b"\n", b"1,2024-01-01,ann,1,1,web\n"])
def test_a_gzip_bomb_refuses_its_day(
    folder: Path, line_break: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HARMLESS_BYTES", 1 << 20)
    content = HEADER.encode() + (line_break or b"\0") * ((3 << 20) // (len(line_break) or 1))
    (folder / "a.csv.gz").write_bytes(gzip.compress(content))
    size = (folder / "a.csv.gz").stat().st_size
    rules = FileRules(unpacking=20, line_characters=1 << 30)
    assert refusal(folder, rules) == (
        f"a.csv.gz: unpacks to more than 20 times its size, {max(size * 20, 1 << 20):,} bytes; "
        "if that is right, raise ML_PLATFORM_DELIVERY_UNPACKING"
    )
    if line_break:
        assert refusal(folder, FileRules(unpacking=2000)) is None


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_file_has_so_many_bytes_at_most(folder: Path, name: str) -> None:
    content = rows(count=2000).encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert refusal(folder, FileRules(file_bytes=len(content))) is None
    assert refusal(folder, FileRules(file_bytes=len(content) - 1)) == (
        f"{name}: has more than {len(content) - 1:,} bytes; "
        "if that is right, raise ML_PLATFORM_DELIVERY_FILE_BYTES"
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("width", ["right", "wrong"])
def test_a_line_has_so_many_characters_at_most_whichever_way_it_is_read(
    folder: Path, ending: str, quote: str, width: str
) -> None:
    line = f"1,2024-01-01,{quote}é{'x' * 80}{quote},1,1,web" + (",more" if width == "wrong" else "")
    (folder / "a.csv").write_text(rows(count=3) + line + ending, newline="")
    assert refusal(folder, FileRules(line_characters=len(line))) is None
    assert "has a line of more than" in str(refusal(folder, FileRules(line_characters=len(line) - 1)))


def test_the_bounds_are_settings_and_travel_with_the_file(folder: Path, tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        delivery_links="anywhere",
        delivery_line_characters=5000,
        delivery_file_bytes=6000,
        delivery_unpacking=7,
    )
    rules = FileRules.of(settings, shop())
    assert rules == FileRules(None, 5000, 6000, 7)
    assert FileRules.of(Settings(home=tmp_path), shop()) == FileRules(root=str(tmp_path / "landing"))
    (folder / "a.csv").write_text(rows())
    (file,) = landing.scan(shop(), folder.parents[1], [DAY], rules)[DAY].files
    assert file.rules == rules


def test_a_packed_day_is_as_large_as_it_says_it_unpacks_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 1 << 20)
    content = rows(count=1) + "1,2024-01-01,ann,1,1,web\n" * 50_000
    (folder / "a.csv.gz").write_bytes(gzip.compress(content.encode(), 9))
    delivery = landing.scan(shop(), folder.parents[1], [DAY])[DAY]
    assert delivery.files[0].likely_bytes == len(content.encode()) > buckets.BUCKET_BYTES
    assert delivery.files[0].size * 8 < buckets.BUCKET_BYTES
    assert bucket_count(delivery) == 2


# -- which files are seen ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.CSV", "a.Csv.GZ", "gzip-without-its-suffix.csv", "plain.csv.gz"])
def test_a_file_is_read_by_its_content_and_in_any_case_of_its_name(folder: Path, name: str) -> None:
    content = rows(count=3).encode()
    packed = name.startswith(("gzip", "a.Csv"))
    (folder / name).write_bytes(gzip.compress(content) if packed else content)
    product = shop()
    delivery = landing.scan(product, folder.parents[1], [DAY])[DAY]
    assert delivery.refusal is None
    (file,) = delivery.files
    assert [row["visit"] for batch in parse_file(file, product) for row in batch.to_pylist()] == [0, 1, 2]
    assert landing.stamp(product, folder.parents[1], DAY)
    split_history(product, [folder / name], folder.parents[2] / "again")
    (again,) = landing.scan(product, folder.parents[2] / "again", [DAY])[DAY].files
    assert again.name == f"2024-01-02T0600_{name.split('.')[0]}.csv"


@pytest.mark.parametrize(
    ("lies", "named"),
    [
        ("2024-01-01/a.csv.zip", "a.csv.zip can't be read: files of the names *.csv, *.parquet, *.jsonl"),
        ("2024-01-01/part1/a.csv", "part1/ can't be read"),
        ("20240101/a.csv", "rows may be in 20240101/ beside it"),
        ("day=2024-01-01/a.csv", "rows may be in day=2024-01-01/ beside it"),
        ("2024-1-1/a.csv", "rows may be in 2024-1-1/ beside it"),
        ("2024/01/01/a.csv", "rows may be in 2024/ beside it"),
        ("year=2024/month=01/a.csv", "rows may be in year=2024/ beside it"),
        ("2024-01-01.csv", "rows may be in 2024-01-01.csv beside it"),
        ("2024-01-01/labels.csv", "there are labels only, in labels.csv"),
    ],
)
def test_a_day_without_rows_names_what_lies_there_instead(tmp_path: Path, lies: str, named: str) -> None:
    path = tmp_path / "shop" / lies
    path.parent.mkdir(parents=True)
    path.write_text("visit,day,bought\n" if lies.endswith("labels.csv") else rows())
    product = shop()
    assert landing.scan(product, tmp_path, [DAY]) == {}
    said = absences.why_absent(product, tmp_path, [DAY, D("2023-05-05")])
    assert said[DAY].startswith(f"no rows have been delivered to {tmp_path / 'shop' / '2024-01-01'}; ")
    assert named in said[DAY]
    assert said[D("2023-05-05")] == f"no rows have been delivered to {tmp_path / 'shop' / '2023-05-05'}"


def test_markers_of_other_programs_are_not_named(folder: Path) -> None:
    for name in ("_SUCCESS", ".a.csv.crc", ".hidden.csv"):
        (folder / name).write_text("")
    assert (
        absences.why_absent(shop(), folder.parents[1], [DAY])[DAY]
        == f"no rows have been delivered to {folder}"
    )


def test_the_days_that_are_delivered_are_the_folders_that_are_read(tmp_path: Path) -> None:
    product = shop()
    for name in ("2024-01-04", "20240105", "2024-W01-6", "day=2024-01-07", "2024-01-08 ", "notes"):
        (tmp_path / "shop" / name).mkdir(parents=True)
        (tmp_path / "shop" / name / "a.csv").write_text(rows(D("2024-01-04")))
    (tmp_path / "shop" / "2024-01-09").write_text("a file")
    (tmp_path / "shop" / "2024-01-10").symlink_to("nowhere")
    (tmp_path / "shop" / "2024-01-11").symlink_to("2024-01-11")
    every = days("2024-01-01", "2024-01-12")
    read = [day for day in every if day in landing.scan(product, tmp_path, every)]
    assert landing.delivered_days(product, tmp_path) == read
    assert read == [D("2024-01-04"), D("2024-01-09"), D("2024-01-11")]  # the last two are refused
    assert [day for day in every if landing.stamp(product, tmp_path, day)] == read


# -- whole days --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_of_these_costs_its_own_day_alone(platform: Platform) -> None:
    chosen = days("2024-01-01", "2024-01-06")
    for day in chosen:
        platform.deliver(day, "a.csv", rows(day))
    os.mkfifo(platform.folder(chosen[0]) / "b.csv")
    (platform.folder(chosen[1]) / "b.csv").symlink_to("/dev/zero")
    Path(os.fsdecode(bytes(platform.folder(chosen[2])) + b"/\xff.csv")).write_text(rows(chosen[2]))
    sparse = platform.deliver(chosen[3], "b.csv", HEADER)
    os.truncate(sparse, 60 << 20)
    platform.deliver(chosen[4], "c.csv.zip", b"PK\x03\x04")
    for _ in range(2):  # the second time nothing is done again
        results = {one.day: one for one in platform.run("ards", [*chosen, D("2024-01-07")]).days}
        outcomes = [results[day].outcome for day in chosen]
        assert outcomes == ["refused", "refused", "refused", "refused", "written", "written"]
        assert results[D("2024-01-07")].outcome == "missing"
        assert "b.csv" in results[chosen[0]].reason
        assert "\\xff.csv" in results[chosen[2]].reason
        assert results[chosen[4]].metadata["unread_files"] == "c.csv.zip"
    assert len(platform.rows("ards")) == 2


def growing(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> None:
    """Have a file grow whenever it has just been looked at, so many times."""
    scan, left = landing.scan, iter(range(times))

    def scan_and_grow(*arguments: Any, **options: Any) -> Any:
        found = scan(*arguments, **options)
        if next(left, None) is not None:
            with path.open("a") as file:
                file.write(f"{path.stat().st_size + 1000},{DAY},late,1,1,web\n")
        return found

    monkeypatch.setattr(landing, "scan", scan_and_grow)


@pytest.mark.slow
@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_file_that_grows_while_it_is_read_is_read_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, carrier: str
) -> None:
    carry_by(carrier, monkeypatch)
    path = platform.deliver(DAY, "a.csv", rows())
    platform.deliver(OTHER, "a.csv", rows(OTHER))
    growing(monkeypatch, path, 3)  # the plan, and two attempts
    first, other = platform.run("ards", [DAY, OTHER]).days
    assert (first.outcome, other.outcome) == ("written", "written")
    assert first.metadata["delivered"] == 4
    record = platform.ledger.latest("ards")[DAY]
    assert record.inputs == landing.stamp(platform.product, platform.settings.landing_path, DAY)
    assert platform.rows("ards").groupby("event_day").size().to_dict() == {DAY: 4, OTHER: 1}


@pytest.mark.slow
def test_a_file_that_never_stops_growing_is_refused_and_tried_again_by_the_next_run(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = platform.deliver(DAY, "a.csv", rows())
    platform.deliver(OTHER, "a.csv", rows(OTHER))
    with monkeypatch.context() as patch:
        growing(patch, path, 1000)
        first, other = platform.run("ards", [DAY, OTHER]).days
    assert (first.outcome, other.outcome) == ("refused", "written")
    assert f"the files (a.csv) changed each of {CHANGES} times" in first.reason
    assert len(platform.rows("ards")) == 1
    (again,) = platform.run("ards", DAY).days
    assert again.outcome == "written"


def test_a_file_that_has_become_shorter_when_labels_are_looked_up_is_reported(folder: Path) -> None:
    product = shop()
    (folder / "a.csv").write_text(rows(count=5))
    (file,) = landing.scan(product, folder.parents[1], [DAY])[DAY].files
    (folder / "a.csv").write_text(rows(count=2))
    with pytest.raises(UnreadableFile, match=r"a\.csv: the file changed while it was read"):
        list(parsing.locate(file, product, {1, 4}))
    (folder / "a.csv").write_text(rows(count=2).replace("c1", '"c1"'))
    with pytest.raises(UnreadableFile, match=r"a\.csv: the file changed while it was read"):
        list(parsing.locate(file, product, {1, 4}))
