"""The alert sensor, ticked as the daemon does it, with a real mail server and a real HTTP receiver."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform.contract.assets import daily
from ml_platform.contract.product import Product
from ml_platform.contract.secrets import Secret
from ml_platform.data_engineering import landing
from ml_platform.engine.step import PermanentError
from ml_platform.graph import run_history
from ml_platform.graph.alerts import alert_sensor, findings
from ml_platform.graph.partitions import RANGE_TAGS
from ml_platform.mlops.alerts import channels
from ml_platform.mlops.alerts.channel_states import ChannelState, read_cursor
from ml_platform.mlops.alerts.findings import FINDING_DAYS
from ml_platform.settings import AlertChannel, Settings
from ml_platform.storage.ledger import DayRecord, Ledger, Outcome
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import FakeRunner, Graph
from ml_platform_tests.mlops.receivers import MailServer, WebReceiver
from ml_platform_tests.small_platform import D, days, shop

DEAD = "json://token-of-the-dead@127.0.0.1:9/secret-path"
MORNING = datetime(2024, 1, 10, 11, 0, tzinfo=UTC)


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    receiver = WebReceiver()
    yield receiver
    receiver.close()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.close()


class Desk:
    """A product, its ledger, and the sensor that watches it; time is what the test says."""

    def __init__(self, home: Path, instance: dg.DagsterInstance, *urls: str, **options: Any) -> None:
        product: Product = options.pop("product", None) or shop(end="2024-01-09")
        settings = settings_in(home).model_copy(update=options)
        if urls:
            settings = settings.model_copy(update={"alert_urls": Secret(" ".join(urls))})
        self.settings: Settings = settings
        self.product, self.instance = product, instance
        self.now = MORNING
        self.cursor: str | None = None
        self.ledger = Ledger(Tables(settings.tables_root), product.name)

    def record(
        self, day: str, outcome: Outcome = "written", *, passed: bool | None = None, **more: Any
    ) -> None:
        checks = []
        if passed is not None:
            description = "customer is never null: 3 of 100 rows, expected no nulls"
            severity = more.pop("severity", "ERROR")
            checks = [
                {"name": "data_quality", "passed": passed, "severity": severity, "description": description}
            ]
        details = {"checks": checks, "metadata": {}}
        more = {"counts": {"rows": 100, "labelled": 100}} | more
        self.ledger.record(
            [
                DayRecord(
                    "ards",
                    D(day),
                    outcome,
                    inputs="i",
                    contract="c",
                    code_version="1",
                    details=details,
                    **more,
                )
            ]
        )

    def settle(self) -> None:
        """Record every day again as made from what lies there now."""
        records = self.ledger.latest("ards")
        stamps = {day: landing.stamp(self.product, self.settings.landing_path, day) for day in records}
        self.ledger.record([replace(one, inputs=stamps[day] or "") for day, one in records.items()])

    def tick(self, *, keep: bool = True) -> str:
        """One tick; ``keep=False`` is a crash before the cursor is stored."""
        sensor = alert_sensor(self.product, self.settings, clock=lambda zone: self.now.astimezone(zone))
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            found = sensor.evaluate_tick(context)
        if keep:
            self.cursor = found.cursor
        return found.skip_message or ""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def deliver_all(desk: Desk, last: str = "2024-01-09") -> None:
    """Rows and labels of the last week are there: nothing is overdue."""
    for day in days("2024-01-03", last):
        folder = desk.settings.landing_path / "shop" / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "visits.csv").write_text("visit,day\n")
        if day not in desk.ledger.latest("ards"):
            desk.record(str(day))
    desk.settle()


def test_mail_and_webhook_get_one_message_of_all_that_is_wrong(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver, mail: MailServer
) -> None:
    desk = Desk(home, instance, web.url, mail.url)
    desk.record("2024-01-05", "refused", reason="a.csv: missing columns: pages", run_id="run-7")
    desk.record("2024-01-06", "blocked", passed=False)
    desk.record("2024-01-07", passed=False, severity="WARN")
    deliver_all(desk)
    said = desk.tick()
    assert said == "json-1: sent: 3 wrong, 0 resolved; mailto-2: sent: 3 wrong, 0 resolved"
    (message,) = web.received
    assert message["title"] == "[shop] 2 errors, 1 warning"
    assert message["type"] == "failure"
    for told in (
        "Fri 2024-01-05, ards refused: a.csv: missing columns: pages",
        "run: http://127.0.0.1:3000/runs/run-7",
        "Sat 2024-01-06, ards data quality: customer is never null: 3 of 100 rows, expected no nulls",
    ):
        assert told in message["message"]
    ((subject, body),) = mail.received
    assert subject == "[shop] 2 errors, 1 warning"
    assert "a.csv: missing columns: pages" in body

    assert desk.tick() == "json-1: nothing new; mailto-2: nothing new"
    assert (len(web.received), len(mail.received)) == (1, 1)


def test_what_is_fixed_or_accepted_is_told_as_resolved(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    desk.record("2024-01-05", "refused", reason="a.csv")
    desk.record("2024-01-06", "blocked", passed=False)
    deliver_all(desk)
    desk.tick()
    desk.record("2024-01-05", passed=True)
    desk.record("2024-01-06", passed=False, accepted_by="ann", accepted_reason="a holiday")
    desk.tick()
    last = web.received[-1]
    assert (last["title"], last["type"]) == ("[shop] 2 resolved", "success")
    assert "accepted by ann: a holiday" in last["message"]
    assert "written, 100 rows" in last["message"]
    assert read_cursor(desk.cursor) == {"json-1": ChannelState()}


def test_a_dead_channel_is_told_later_and_stops_no_other(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver, mail: MailServer
) -> None:
    desk = Desk(home, instance, web.url, mail.url)
    web.status = 503
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    said = desk.tick()
    assert said.startswith("json-1: took no message; is tried again after 2024-01-10T11:01:00")
    assert "mailto-2: sent: 1 wrong" in said
    desk.record("2024-01-06", "refused", reason="second")
    assert desk.tick().startswith("json-1: is tried again after 2024-01-10T11:01:00+00:00; mailto-2: sent: 1")
    assert [subject for subject, _ in mail.received] == ["[shop] 1 error", "[shop] 1 error"]
    web.status = 200
    desk.now += timedelta(minutes=1)
    desk.tick()
    (message,) = web.received
    assert message["title"] == "[shop] 2 errors"
    assert len(mail.received) == 2


class Raises:
    """What a message's way to a channel may end with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: BaseException, scheme: str) -> None:
        send = channels.send

        def failing(channel: AlertChannel, message: Any) -> bool:
            if channel.url.get_secret_value().startswith(scheme):
                raise error
            return send(channel, message)

        monkeypatch.setattr(channels, "send", failing)


@pytest.mark.parametrize(
    "error", [RuntimeError("token"), channels.ChannelError("broken"), SystemExit(0), KeyboardInterrupt()]
)
def test_a_channel_that_raises_stops_no_other_whatever_it_raises(
    home: Path,
    instance: dg.DagsterInstance,
    web: WebReceiver,
    mail: MailServer,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    Raises(monkeypatch, error, "gotify")
    desk = Desk(home, instance, mail.url, "gotify://127.0.0.1:9/token", web.url)
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    for _ in range(5):
        said = desk.tick()
        desk.now += timedelta(minutes=1)
        assert "token" not in said
    assert (len(mail.received), len(web.received)) == (1, 1)
    assert read_cursor(desk.cursor)["gotify-2"].failures == 3


def test_an_address_that_cannot_be_understood_stops_no_other(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver, mail: MailServer
) -> None:
    desk = Desk(home, instance, mail.url, "nonsense://secret", web.url, "keyvault://")
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    said = desk.tick()
    assert "nonsense-2: the address of the alert channel 'nonsense-2' can't be understood" in said
    assert "secret" not in said.replace("names no secret", "")
    assert (len(mail.received), len(web.received)) == (1, 1)
    desk.tick()
    assert (len(mail.received), len(web.received)) == (1, 1)


def test_a_channel_that_never_answers_holds_up_no_other(
    home: Path, instance: dg.DagsterInstance, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    send = channels.send

    def silent(channel: AlertChannel, message: Any) -> bool:
        return released.wait() if channel.name.startswith("json") else send(channel, message)

    monkeypatch.setattr(channels, "send", silent)
    monkeypatch.setattr(channels, "SEND_SECONDS", 1.0)
    desk = Desk(home, instance, DEAD, mail.url)
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    try:
        said = desk.tick()
    finally:
        released.set()
    assert said.startswith("json-1: did not answer within 1 seconds; is tried again after")
    assert len(mail.received) == 1


def test_two_channels_of_one_name_each_have_their_own_state(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver, mail: MailServer
) -> None:
    two = tuple(AlertChannel(name="team", url=Secret(url)) for url in (web.url, mail.url))
    desk = Desk(home, instance, alert_channels=two)
    web.status = 503
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    desk.tick()
    desk.tick()
    assert len(mail.received) == 1
    states = read_cursor(desk.cursor)
    assert (states["team"].failures, states["team (2)"].failures) == (1, 0)


def test_what_failed_and_was_fixed_while_a_channel_was_away_is_told(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    web.status = 503
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    desk.tick()
    desk.record("2024-01-05", passed=True)
    web.status = 200
    desk.now += timedelta(minutes=1)
    desk.tick()
    (message,) = web.received
    assert message["title"] == "[shop] 1 resolved"
    assert "ards 2024-01-05, refused: written, 100 rows" in message["message"]


def test_a_source_that_cannot_be_read_is_told_and_hides_no_other(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    desk.tick()
    log = home / "tables" / "shop" / "days" / "_delta_log"
    good = {path: path.read_bytes() for path in log.iterdir()}
    for path in good:
        path.write_bytes(b"no json")
    desk.tick()
    desk.tick()
    assert len(web.received) == 2
    assert "- ledger can't be looked at" in web.received[-1]["message"]
    assert "resolved" not in web.received[-1]["title"]
    for path, content in good.items():
        path.write_bytes(content)
    desk.tick()
    assert web.received[-1]["title"] == "[shop] 2 resolved", "the ledger, and the clock that reads it"
    desk.tick()
    assert len(web.received) == 3, "the refused day was told before, and not again"


def test_a_crash_between_the_message_and_the_cursor_repeats_one_and_loses_none(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    desk.tick(keep=False)
    desk.tick()
    desk.tick()
    assert [one["title"] for one in web.received] == ["[shop] 1 error", "[shop] 1 error"]


def test_a_channel_hears_what_its_filters_let_through(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    def channel(name: str, **filters: Any) -> AlertChannel:
        return AlertChannel(name=name, url=Secret(f"{web.url}/{name}"), **filters)

    wanted = (
        channel("all"),
        channel("errors", severity="error"),
        channel("others", products=("flights",)),
        channel("risk", owners=("team:risk",)),
        channel("shop", owners=("team:shop", "team:risk"), products=("shop",)),
    )
    desk = Desk(home, instance, alert_channels=wanted, product=shop(owners=["team:shop"], end="2024-01-09"))
    desk.record("2024-01-05", passed=False, severity="WARN")
    deliver_all(desk)
    assert desk.tick() == (
        "all: sent: 1 wrong, 0 resolved; errors: nothing new; shop: sent: 1 wrong, 0 resolved"
    )
    strict = shop(owners=["team:shop"], end="2024-01-09", alerts={"severity": "error"})
    quiet = Desk(home, instance, alert_channels=wanted, product=strict)
    assert quiet.tick() == "all: nothing new; errors: nothing new; shop: nothing new"


def test_no_secret_of_a_channel_is_ever_shown(
    home: Path,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    desk = Desk(home, instance, DEAD)
    desk.record("2024-01-05", "refused", reason="a.csv")
    deliver_all(desk)
    said = desk.tick()
    assert "took no message" in said
    shown = caplog.text + "".join(capfd.readouterr()) + said + str(desk.cursor) + repr(desk.settings)
    assert "json-1" in shown
    for secret in ("token-of-the-dead", "secret-path"):
        assert secret not in shown
    broken = AlertChannel(name="broken", url=Secret("nonsense://token-of-the-dead"))
    with pytest.raises(channels.ChannelError, match="'broken' can't be understood") as failure:
        channels.send(broken, _message())
    assert "token-of-the-dead" not in str(failure.value)


def _message() -> Any:
    from ml_platform.mlops.alerts.messages import Message

    return Message("title", "body", "resolved")


# -- runs and the clock ------------------------------------------------------------------------------


class Broken:
    """A step runner whose work fails, with a message that holds a password."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run(self, *_: Any) -> Any:
        raise self.error


def test_a_failed_run_is_told_until_one_over_the_same_days_succeeds(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    deliver_all(desk)
    broken = Graph(
        desk.settings, instance, product=desk.product, runner=Broken(RuntimeError("password=hunter3"))
    )
    desk.now = datetime.now(tz=UTC)
    assert not broken.run(["mrds"], "2024-01-03", "2024-01-05").success
    desk.tick()
    (message,) = web.received
    assert "2024-01-03 to 2024-01-05, mrds run failed: shop__mrds: RuntimeError" in message["message"]
    assert "hunter3" not in json.dumps(message)
    desk.tick()
    assert len(web.received) == 1

    assert (
        Graph(desk.settings, instance, product=desk.product).run(["mrds"], "2024-01-03", "2024-01-05").success
    )
    desk.tick()
    assert web.received[-1]["title"] == "[shop] 1 resolved"


def test_a_failure_of_ours_is_told_with_its_reason(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    deliver_all(desk)
    desk.now = datetime.now(tz=UTC)
    runner = Broken(PermanentError("one class only; deliver labels"))
    Graph(desk.settings, instance, product=desk.product, runner=runner).run(["mrds"], "2024-01-03")
    desk.tick()
    assert "run failed: shop__mrds: one class only; deliver labels" in web.received[0]["message"]


def test_what_is_overdue_is_told_and_that_it_has_come(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url, product=shop())
    deliver_all(desk)
    yesterday = desk.settings.landing_path / "shop" / "2024-01-09" / "visits.csv"
    yesterday.unlink()
    desk.record("2024-01-08", counts={"rows": 100, "labelled": 10})
    desk.now = datetime(2024, 1, 10, 9, 59, tzinfo=UTC)
    assert desk.tick() == "json-1: nothing new"
    desk.now += timedelta(minutes=2)
    desk.tick()
    told = web.received[-1]["message"]
    assert "Tue 2024-01-09, delivery overdue: no rows have been delivered" in told
    assert "since 2024-01-10 10:00" in told
    assert "Mon 2024-01-08, ards labels overdue: 10.0% of the rows have labels" in told

    yesterday.write_text("visit,day\n")
    desk.record("2024-01-08", counts={"rows": 100, "labelled": 90})
    desk.tick()
    assert web.received[-1]["title"] == "[shop] 2 resolved"


def test_a_delivery_that_nobody_materializes_is_overdue(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance, product=shop())
    deliver_all(desk)
    day = datetime.now(tz=UTC).date() - timedelta(days=1)
    folder = desk.settings.landing_path / "shop" / str(day)
    folder.mkdir()
    (folder / "visits.csv").write_text("visit,day\n")

    desk.record("2024-01-01")

    def overdue(hours: float) -> list[str]:
        now = datetime.now(tz=UTC) + timedelta(hours=hours)
        wrong = findings(desk.product, desk.settings, instance, lambda zone: now.astimezone(zone))
        return [one.partition for one in wrong if one.subject == "materialization overdue"]

    assert overdue(2.9) == []
    assert overdue(3.1) == [str(day)]


def overdue_in(desk: Desk, hours: float) -> dict[str, str]:
    """What is said of deliveries that are not materialized, by day, so many hours from now."""
    now = datetime.now(tz=UTC) + timedelta(hours=hours)
    wrong = findings(desk.product, desk.settings, desk.instance, lambda zone: now.astimezone(zone))
    return {one.partition: one.what for one in wrong if one.subject == "materialization overdue"}


def test_a_correction_that_nobody_picks_up_is_overdue(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance)
    deliver_all(desk)
    folder = desk.settings.landing_path / "shop" / "2024-01-05"
    (folder / "b.csv").write_text("visit,day\n")
    # The file keeps the time of an old one.
    os.utime(folder / "b.csv", (0, 0))
    assert overdue_in(desk, 2.9) == {}
    found = overdue_in(desk, 3.1)
    assert list(found) == ["2024-01-05"]
    assert found["2024-01-05"].startswith("the day's files were changed at ")
    (folder / "b.csv").unlink()
    assert overdue_in(desk, 3.1) == {}, "it is as it was last made"


def test_a_day_that_a_run_has_found_undelivered_is_reported_once(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    deliver_all(desk, last="2024-01-08")
    assert desk.tick() == "json-1: sent: 1 wrong, 0 resolved"
    assert "Tue 2024-01-09, delivery overdue" in web.received[-1]["message"]
    desk.record("2024-01-09", "missing", reason="no files", counts={})
    assert [one.key for one in findings(desk.product, desk.settings, instance, lambda zone: desk.now)] == [
        "ards/2024-01-09/missing"
    ]
    assert desk.tick() == "json-1: nothing new"


def test_a_delivery_after_missing_that_nobody_picks_up_is_overdue_and_resolved_when_it_is_made(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    deliver_all(desk)
    folder = desk.settings.landing_path / "shop" / "2024-01-05"
    (folder / "visits.csv").rename(home / "later.csv")
    desk.record("2024-01-05", "missing", reason="no rows", counts={})
    desk.settle()
    desk.now = datetime.now(tz=UTC) + timedelta(hours=4)
    desk.tick()
    assert "Fri 2024-01-05, ards not delivered: no rows" in web.received[-1]["message"]
    (home / "later.csv").rename(folder / "visits.csv")
    (folder / "visits.csv").write_text("visit,day,customer,spend,pages,channel\n1,2024-01-05,a,1,1,web\n")
    desk.tick()
    assert (
        "Fri 2024-01-05, ards materialization overdue: the day was delivered" in web.received[-1]["message"]
    )
    desk.record("2024-01-05")
    desk.settle()
    desk.tick()
    assert web.received[-1]["title"] == "[shop] 2 resolved"
    assert desk.tick() == "json-1: nothing new"


def test_an_old_day_that_was_never_made_again_stays_told_while_it_lasts(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url, product=shop(end="2024-12-31"))
    for day in days("2024-01-01", "2024-12-31"):
        folder = desk.settings.landing_path / "shop" / str(day)
        folder.mkdir(parents=True)
        (folder / "visits.csv").write_text("visit,day\n")
    bulk = [
        DayRecord("ards", day, "written", inputs="i", contract="c", code_version="1")
        for day in days("2024-01-01", "2024-12-31")
    ]
    desk.ledger.record(bulk)
    desk.settle()
    (desk.settings.landing_path / "shop" / "2024-02-01" / "late.csv").write_text("visit,day\n")
    desk.now = datetime.now(tz=UTC) + timedelta(hours=4)
    for _ in range(12):
        desk.tick()
        desk.now += timedelta(minutes=1)
    (message,) = web.received
    assert "Thu 2024-02-01, ards materialization overdue" in message["message"]


def test_deliveries_that_were_never_made_are_one_finding(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance, product=shop(end="2024-12-31"))
    for day in days("2024-01-01", "2024-12-31"):
        (desk.settings.landing_path / "shop" / str(day)).mkdir(parents=True)
    found = overdue_in(desk, 4)
    assert list(found) == ["2024-01-01 to 2024-10-30"]
    assert found["2024-01-01 to 2024-10-30"].startswith("304 days were delivered, the last at ")


def test_files_that_have_vanished_are_told(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance)
    deliver_all(desk)
    shutil.rmtree(desk.settings.landing_path / "shop" / "2024-01-05")
    assert overdue_in(desk, 4)["2024-01-05"].startswith("the day's delivery was withdrawn at ")


def test_a_failed_maintenance_is_told_until_one_succeeds(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    deliver_all(desk)
    desk.now = datetime.now(tz=UTC)
    for runner in (Broken(OSError("the disk is full")), FakeRunner()):
        graph = Graph(desk.settings, instance, product=desk.product, runner=runner)
        job = graph.definitions.resolve_job_def("shop_maintenance")
        job.execute_in_process(instance=instance, raise_on_error=False)
        desk.tick()
    first, second = web.received
    assert "maintenance run failed: shop_tables: OSError" in first["message"]
    assert second["title"] == "[shop] 1 resolved"


def failed_run(desk: Desk) -> str:
    tags = dict(zip(RANGE_TAGS, ("2024-01-03", "2024-01-05"), strict=True))
    run = dg.DagsterRun(job_name="shop_daily", tags=tags, status=dg.DagsterRunStatus.FAILURE)
    return desk.instance.add_run(run).run_id


def failed_at(desk: Desk, now: datetime) -> list[str]:
    wrong = findings(desk.product, desk.settings, desk.instance, lambda zone: now.astimezone(zone))
    return [one.partition for one in wrong if one.kind == "run"]


def test_no_number_of_other_products_runs_hides_a_failed_one(
    home: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_history, "PAGE", 20)
    desk = Desk(home, instance)
    deliver_all(desk)
    failed_run(desk)
    for _ in range(45):
        instance.add_run(dg.DagsterRun(job_name="bakery_daily", status=dg.DagsterRunStatus.SUCCESS))
    assert failed_at(desk, datetime.now(tz=UTC)) == ["2024-01-03 to 2024-01-05"]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Chicago"])
def test_a_failed_run_is_known_for_some_days_or_until_a_person_deletes_it(
    home: Path, instance: dg.DagsterInstance, zone: str
) -> None:
    desk = Desk(home, instance, product=shop(end="2024-01-09", timezone=zone))
    deliver_all(desk)
    run_id = failed_run(desk)
    now = datetime.now(tz=UTC)
    for later in (0.0, run_history.RUN_DAYS - 0.1):
        assert failed_at(desk, now + timedelta(days=later)) == ["2024-01-03 to 2024-01-05"]
    assert failed_at(desk, now + timedelta(days=run_history.RUN_DAYS + 0.1)) == []
    other = Desk(home, instance, product=desk.product)
    run_id = failed_run(other)
    assert failed_at(other, now) == ["2024-01-03 to 2024-01-05"]
    instance.delete_run(run_id)
    instance.delete_run(instance.get_runs()[0].run_id)
    assert failed_at(other, now) == []


def add_run(
    desk: Desk, status: dg.DagsterRunStatus, assets: Collection[str], first: str, last: str = ""
) -> None:
    """A finished run of a backfill, over one partition or a range."""
    last = last or first
    tags = (
        dict(zip(RANGE_TAGS, (first, last), strict=True)) if last != first else {"dagster/partition": first}
    )
    chosen = {dg.AssetKey(["shop", asset]) for asset in assets}
    desk.instance.add_run(
        dg.DagsterRun(job_name="__ASSET_JOB", tags=tags, status=status, asset_selection=chosen)
    )


@pytest.mark.parametrize(
    ("since", "is_made"),
    [
        ([(daily(), "2024-01-01", "2024-01-09")], True),
        ([(daily(), "2024-01-03", "2024-01-05")], True),
        ([(daily(), "2024-01-05", ""), (daily(), "2024-01-02", "2024-01-04")], True),
        ([(daily(), "2024-01-03", ""), (daily(), "2024-01-05", "2024-01-09")], False),
        ([(daily(), "2024-01-03", "2024-01-04")], False),
        ([(["ards", "mrds"], "2024-01-01", "2024-01-09")], False),
        (
            [
                (daily()[:2], "2024-01-01", "2024-01-09"),
                (daily()[2:], "2024-01-03", "2024-01-04"),
                (daily()[2:], "2024-01-05", "2024-01-06"),
            ],
            True,
        ),
        ([(["model"], "2024-01-01", "2024-03-01")], False),
    ],
)
def test_a_failed_run_is_told_until_others_have_made_all_of_it(
    home: Path, instance: dg.DagsterInstance, since: list[tuple[Collection[str], str, str]], is_made: bool
) -> None:
    desk = Desk(home, instance, product=shop(end="2024-01-09"))
    deliver_all(desk)
    add_run(desk, dg.DagsterRunStatus.SUCCESS, daily(), "2024-01-01", "2024-01-09")
    failed_run(desk)
    now = datetime.now(tz=UTC)
    assert failed_at(desk, now) == ["2024-01-03 to 2024-01-05"]
    for assets, first, last in since:
        add_run(desk, dg.DagsterRunStatus.SUCCESS, assets, first, last)
    assert failed_at(desk, now) == ([] if is_made else ["2024-01-03 to 2024-01-05"])


@pytest.mark.parametrize(
    ("since", "is_made"), [(["2024-01-01", "2024-02-01"], True), (["2024-01-01"], False)]
)
def test_so_is_a_failed_run_over_months(
    home: Path, instance: dg.DagsterInstance, since: list[str], is_made: bool
) -> None:
    desk = Desk(home, instance, product=shop(end="2024-01-09"))
    deliver_all(desk)
    add_run(desk, dg.DagsterRunStatus.FAILURE, ["model"], "2024-01-01", "2024-02-01")
    for month in since:
        add_run(desk, dg.DagsterRunStatus.SUCCESS, ["model"], month)
    assert failed_at(desk, datetime.now(tz=UTC)) == ([] if is_made else ["2024-01-01 to 2024-02-01"])


def test_a_finding_leaves_the_cursor_at_the_stated_age(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url)
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    began = datetime.now(tz=UTC)
    desk.now = began + timedelta(days=FINDING_DAYS, hours=-1)
    desk.tick()
    assert list(read_cursor(desk.cursor)["json-1"].reported) == ["ards/2024-01-05/refused"]
    desk.now = began + timedelta(days=FINDING_DAYS, hours=1)
    assert desk.tick() == "json-1: nothing new"
    assert read_cursor(desk.cursor) == {"json-1": ChannelState()}
    assert len(web.received) == 1
    still = findings(desk.product, desk.settings, instance, lambda zone: desk.now.astimezone(zone))
    assert [one.what for one in still] == ["first"], "`alerts show` has it as long as it lasts"


def test_thousands_of_findings_are_one_message_and_no_news_at_the_next_tick(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(
        home,
        instance,
        web.url,
        product=shop(start="2014-01-01", end="2023-12-31", model__first_month="2014-02"),
    )
    ten_years = days("2014-01-01", "2023-12-31")
    bad = [
        DayRecord(asset, day, "refused", inputs="i", contract="c", code_version="1", reason="a.csv")
        for asset in ("ards", "mrds")
        for day in ten_years
    ]
    desk.ledger.record(bad)
    desk.tick()
    for _ in range(2):
        assert desk.tick() == "json-1: nothing new"
    (message,) = web.received
    assert message["title"] == "[shop] 7,304 errors"
    assert len(desk.cursor or "") < 1000


def test_a_finished_history_is_never_overdue(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance, product=shop(end="2024-01-31"))
    later = datetime(2024, 6, 10, 12, 0, tzinfo=UTC)
    wrong = findings(desk.product, desk.settings, instance, lambda zone: later.astimezone(zone))
    assert wrong == []


def test_a_backfill_of_a_year_is_one_message(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver
) -> None:
    desk = Desk(home, instance, web.url, product=shop(end="2024-12-31"))
    bad = [
        DayRecord("ards", day, "blocked", inputs="i", contract="c", code_version="1", reason="3 nulls")
        for day in days("2024-01-01", "2024-12-30")
    ]
    desk.ledger.record(bad)
    desk.now = datetime(2025, 6, 1, 12, tzinfo=UTC)
    desk.tick()
    (message,) = web.received
    assert message["title"] == "[shop] 365 errors"
    assert len(message["message"]) < 3000
