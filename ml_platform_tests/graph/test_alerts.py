"""The alert sensor, ticked as the daemon does it, with a real mail server and a real HTTP receiver."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr

from ml_platform.engine.step import PermanentError
from ml_platform.graph.alerts import alert_sensor, findings
from ml_platform.mlops import channels
from ml_platform.product import Product
from ml_platform.settings import AlertChannel, Settings
from ml_platform.storage.ledger import DayRecord, Ledger, Outcome
from ml_platform.storage.tables import Tables
from ml_platform_tests.conftest import settings_in
from ml_platform_tests.graph.stand_ins import Graph
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
            settings = settings.model_copy(update={"alert_urls": SecretStr(" ".join(urls))})
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


def deliver_all(desk: Desk) -> None:
    """Rows and labels of the last week are there: nothing is overdue."""
    for day in days("2024-01-03", "2024-01-09"):
        folder = desk.settings.landing_path / "shop" / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "visits.csv").write_text("visit,day\n")
        if day not in desk.ledger.latest("ards"):
            desk.record(str(day))


def test_mail_and_webhook_get_one_message_of_all_that_is_wrong(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver, mail: MailServer
) -> None:
    desk = Desk(home, instance, web.url, mail.url)
    desk.record("2024-01-05", "refused", reason="a.csv: missing columns: pages", run_id="run-7")
    desk.record("2024-01-06", "blocked", passed=False)
    desk.record("2024-01-07", passed=False, severity="WARN")
    deliver_all(desk)
    said = desk.tick()
    assert said == "json-1: told of 3 wrong, 0 well again; mailto-2: told of 3 wrong, 0 well again"
    (message,) = web.received
    assert message["title"] == "[shop] 2 errors, 1 warning"
    assert message["type"] == "failure"
    for told in (
        "ards 2024-01-05, refused: a.csv: missing columns: pages",
        "run: http://127.0.0.1:3000/runs/run-7",
        "ards 2024-01-06, data_quality: customer is never null: 3 of 100 rows, expected no nulls",
    ):
        assert told in message["message"]
    ((subject, body),) = mail.received
    assert subject == "[shop] 2 errors, 1 warning"
    assert "a.csv: missing columns: pages" in body

    assert desk.tick() == "json-1: nothing new; mailto-2: nothing new"
    assert (len(web.received), len(mail.received)) == (1, 1)


def test_what_is_mended_or_accepted_is_told_as_well_again(
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
    assert (last["title"], last["type"]) == ("[shop] 2 well again", "success")
    assert "accepted by ann: a holiday" in last["message"]
    assert "written, 100 rows" in last["message"]
    assert json.loads(desk.cursor or "") == {"json-1": {}}


def test_a_dead_channel_is_told_later_and_stops_no_other(
    home: Path, instance: dg.DagsterInstance, web: WebReceiver, mail: MailServer
) -> None:
    desk = Desk(home, instance, web.url, mail.url)
    web.status = 503
    desk.record("2024-01-05", "refused", reason="first")
    deliver_all(desk)
    said = desk.tick()
    assert said.startswith("json-1: took no message, is tried again; mailto-2: told of 1 wrong")
    desk.record("2024-01-06", "refused", reason="second")
    desk.tick()
    assert [subject for subject, _ in mail.received] == ["[shop] 1 error", "[shop] 1 error"]
    web.status = 200
    desk.tick()
    (message,) = web.received
    assert message["title"] == "[shop] 2 errors"
    assert len(mail.received) == 2


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
        return AlertChannel(name=name, url=SecretStr(f"{web.url}/{name}"), **filters)

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
        "all: told of 1 wrong, 0 well again; errors: nothing new; shop: told of 1 wrong, 0 well again"
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
    broken = AlertChannel(name="broken", url=SecretStr("nonsense://token-of-the-dead"))
    with pytest.raises(channels.ChannelError, match="'broken' can't be understood") as failure:
        channels.send(broken, _message())
    assert "token-of-the-dead" not in str(failure.value)


def _message() -> Any:
    from ml_platform.mlops.alerts import Message

    return Message("title", "body", "well")


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
    assert "mrds 2024-01-03 to 2024-01-05, run failed: shop__mrds: RuntimeError" in message["message"]
    assert "hunter3" not in json.dumps(message)
    desk.tick()
    assert len(web.received) == 1

    assert (
        Graph(desk.settings, instance, product=desk.product).run(["mrds"], "2024-01-03", "2024-01-05").success
    )
    desk.tick()
    assert web.received[-1]["title"] == "[shop] 1 well again"


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
    assert "landing 2024-01-09, delivery overdue: no rows have been delivered" in told
    assert "since 2024-01-10 10:00" in told
    assert "ards 2024-01-08, labels overdue: 10.0% of the rows have labels" in told

    yesterday.write_text("visit,day\n")
    desk.record("2024-01-08", counts={"rows": 100, "labelled": 90})
    desk.tick()
    assert web.received[-1]["title"] == "[shop] 2 well again"


def test_a_delivery_that_nobody_materializes_is_overdue(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance, product=shop())
    deliver_all(desk)
    day = datetime.now(tz=UTC).date() - timedelta(days=1)
    folder = desk.settings.landing_path / "shop" / str(day)
    folder.mkdir()
    (folder / "visits.csv").write_text("visit,day\n")

    def overdue(hours: float) -> list[str]:
        now = datetime.now(tz=UTC) + timedelta(hours=hours)
        wrong, _ = findings(desk.product, desk.settings, instance, lambda zone: now.astimezone(zone))
        return [one.partition for one in wrong if one.subject == "materialization overdue"]

    assert overdue(2.9) == []
    assert overdue(3.1) == [str(day)]


def test_a_finished_history_is_never_overdue(home: Path, instance: dg.DagsterInstance) -> None:
    desk = Desk(home, instance, product=shop(end="2024-01-31"))
    later = datetime(2024, 6, 10, 12, 0, tzinfo=UTC)
    wrong, _ = findings(desk.product, desk.settings, instance, lambda zone: later.astimezone(zone))
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
