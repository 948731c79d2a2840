"""Every command that the documents and the help print is one that works.

A quick part reads them and holds them to the commands, options, targets, settings and files that there are. A
slow part runs them, in the order of :data:`RUN`, on some months of the sample of flights; a command without a
place there fails the quick part.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import http.server
import json
import random
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ml_platform.cli.main import app
from ml_platform.settings import PACKAGE, Settings
from ml_platform_tests.conftest import settings_in

CHECKOUT = PACKAGE.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
#: How pages name the command of a checkout.
OURS = (".venv/bin/ml-platform", "ml-platform")


@dataclass(frozen=True)
class Command:
    """A command line, and the page or the help that prints it."""

    line: str
    place: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def ours(self) -> list[str] | None:
        """Its arguments, if it is one of the platform's own."""
        return self.words[1:] if self.words[0] in OURS else None

    @property
    def name(self) -> str:
        """What is run, the same wherever it is printed."""
        words = self.words if self.ours is None else ["ml-platform", *self.ours]
        return shlex.join(words)


def tree(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a group, each with the words that call it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, below in inner.items():
        yield from tree(below, (*path, name))


ROOT = typer.main.get_command(app)
COMMANDS = dict(tree(ROOT))


def in_blocks() -> list[Command]:
    """The lines of the shell blocks of all pages."""
    found = []
    for page in PAGES:
        for block in re.findall(
            r"^ *```(?:sh|bash|shell|console)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            joined = re.sub(r"\\\n\s*", " ", block)
            found += [
                Command(line.strip(), page.name)
                for line in joined.splitlines()
                if line.strip() and not line.strip().startswith("#")
            ]
    return found


def in_help() -> list[Command]:
    """The examples of the help."""
    return [
        Command(" ".join(example.split()), f"{' '.join(path)} --help")
        for path, command in COMMANDS.items()
        for example in re.findall(r"Example[^:]*:\s*`([^`]+)`", command.help or "")
    ]


def in_text() -> list[Command]:
    """What pages call a command in a sentence, as far as it has arguments; it may have placeholders."""
    return [
        Command(" ".join(line.split()), page.name)
        for page in PAGES
        for line in re.findall(
            r"`((?:\.venv/bin/)?ml-platform [^`]+)`",
            re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE),
        )
    ]


PRINTED = [*in_blocks(), *in_help()]


# -- what is run, and in which order -----------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A command to run, as it is printed: what it ends with, and something that it must say."""

    command: str
    code: int = 0
    says: str = ""


MONTHS = "--from 2013-01-01 --to 2013-03-31"
BLOCKED = "var/landing/flights/2013-02-08/2013-02-09T0600_flights.csv"

RUN: list[Step] = [
    # The demo, of four months here: the model of the fourth one is promoted after the first.
    Step("make demo", says="f1 is of the 31 days up to the month's last evaluated one"),
    Step("ml-platform prepare", says="Spark is ready on this machine"),
    Step("make ui", says="Today"),
    Step("ml-platform ui --port 3000", says="Today"),
    Step("ml-platform check ml_platform/products/flights.yaml", says="is valid"),
    Step(f"ml-platform backfill flights {MONTHS}", says="up to date, nothing to do"),
    Step("ml-platform summary flights", says="2013-03"),
    Step("ml-platform summary flights --json", says='"month": "2013-03"'),
    Step("ml-platform history flights", says="promoted"),
    Step("ml-platform history flights --json", says='"verdict": "promoted"'),
    Step("ml-platform today flights", says="flights/_today/index.html"),
    Step("ml-platform today flights --json", says='"newest_day": "2013-04-30"'),
    Step("ml-platform suggest flights", says="it would have blocked"),
    Step("ml-platform suggest flights --json", says='"would_have_blocked"'),
    Step("ml-platform doctor", says="flights: all is as the ledger says"),
    Step("ml-platform doctor flights --json", says="[]"),
    Step("ml-platform doctor flights --repair", says="flights: all is as the ledger says"),
    Step("ml-platform arrivals show flights", says="none of them came after its day had been looked at"),
    Step("ml-platform arrivals export flights var/arrivals.csv", says="written to var/arrivals.csv"),
    Step("ml-platform arrivals forget flights --from 2013-01-01 --to 2013-01-31", says="forgotten"),
    Step("ml-platform arrivals import flights var/arrivals.csv", says="added"),
    # A blocked day, from the delivery that is cut off to the one that is whole again.
    Step(f"head -n 201 {BLOCKED} > var/cut.csv"),
    Step(f"mv var/cut.csv {BLOCKED}"),
    Step("ml-platform backfill flights --from 2013-02-08 --to 2013-02-08", code=1, says="2013-02-08"),
    Step("ml-platform alerts show flights", says="2013-02-08"),
    Step("ml-platform alerts show flights --json", says='"subject": "data_quality"'),
    Step(
        'ml-platform accept flights 2013-02-08 --reason "snowstorm, confirmed by the carriers"',
        says="confirmed by the carriers",
    ),
    Step("ml-platform backfill flights --from 2013-02-08 --to 2013-02-08", says="up to date"),
    Step("rm -r var/landing/flights/2013-02-08"),
    Step("ml-platform sample flights --from 2013-02-08 --to 2013-02-08", says="2013-02-08"),
    Step("ml-platform backfill flights --from 2013-02-01 --to 2013-02-28", says="up to date"),
    # A day that turns out to be garbage, and doesn't after all.
    Step(
        'ml-platform reject flights 2013-02-09 --reason "the clocks were wrong" --on 2013-04-01',
        says="the clocks were wrong",
    ),
    Step("ml-platform backfill flights --from 2013-02-09 --to 2013-02-09", code=1, says="rejected by"),
    Step("ml-platform reject flights 2013-02-09 --undo", says="1 rejection of 2013-02-09 taken back"),
    Step("ml-platform backfill flights --from 2013-02-09 --to 2013-02-09", says="up to date"),
    # Models.
    Step("ml-platform reproduce flights", says="3 of 3 models of flights are what they were"),
    Step("ml-platform reproduce flights 2013-03 --from-deliveries", says="1 of 1 model of flights is what"),
    Step("ml-platform train flights", says="the model as of 2013-05-01"),
    Step("ml-platform train flights --as-of 2013-03-15", says="the model as of 2013-03-15"),
    Step(f"ml-platform backfill flights {MONTHS} --with-retraining", says="up to date"),
    Step(
        'ml-platform rollback flights --reason "too many false alarms" --dry-run',
        says="Nothing has been changed",
    ),
    Step(
        'ml-platform rollback flights --to 2013-02-01 --reason "too many false alarms" --yes',
        says="The model as of 2013-02-01 serves again",
    ),
    Step("ml-platform backfill flights --from 2013-04-01 --to 2013-04-30 --rescore", says="up to date"),
    # The online store.
    Step("ml-platform online get flights N14228 N24211", says="N24211"),
    Step("ml-platform online get flights N14228 --json", says='"tailnum": "N14228"'),
    Step("ml-platform online serve", says="N14228"),
    Step("ml-platform online serve --port 8000", says="N14228"),
    Step("curl 'http://127.0.0.1:8000/flights/features?tailnum=N14228'", says='"tailnum":"N14228"'),
    Step('ml-platform online forget flights N14228 N24211 --reason "request 4711"', says="2 keys forgotten"),
    Step("ml-platform online unforget flights N14228", says="1 of 1 key had been forgotten"),
    # Alerts go to a receiver on this machine instead of the address that the page shows.
    Step("ml-platform alerts test flights", says="sent"),
    # Backup.
    Step('sqlite3 var/mlflow/mlflow.db ".backup mlflow.db"'),
    Step('sqlite3 var/online/features.db ".backup features.db"'),
    # The generated sample.
    Step("ml-platform sample customers --from 2022-01-01 --to 2022-02-28", says="are in"),
    Step("ml-platform backfill customers --from 2022-01-01 --to 2022-02-28", says="up to date"),
    Step("ml-platform summary customers", says="2022-02"),
    Step(
        "ml-platform sample customers --from 2022-01-01 --to 2022-02-28 --rows-per-day 2000",
        says="are in",
    ),
    Step("ml-platform sample shop --from 2023-01-01 --to 2023-06-30", says="are in"),
    Step("ml-platform backfill shop --from 2023-01-01 --to 2023-06-30", says="up to date"),
    Step("ml-platform summary shop", says="model 1 as of 2023-06-01, promoted"),
    # One's own data, from a file that the test writes.
    Step("ml-platform init orders history.csv.gz --label returned", says="contracts/orders.yaml"),
    Step("ml-platform check contracts/orders.yaml", says="is valid"),
    Step("ml-platform land orders history.csv.gz", says="60 days"),
    Step("ml-platform backfill orders --from 2024-01-01 --to 2024-02-29", says="up to date"),
    Step("ml-platform summary orders", says="2024-02"),
    # What steps on Databricks run, made without a workspace.
    Step("ml-platform databricks wheel --to dist", says="dist/ml_platform"),
]

_WORKSPACE = "needs a Databricks workspace; run against a stand-in in cli/test_smoke.py"
_SUITE = "is how these tests, or longer ones, are run"
#: Why a command is not run, though its options, targets, files and settings are looked at.
NOT_RUN: dict[str, str] = {
    "ml-platform databricks upload": _WORKSPACE,
    "ml-platform databricks smoke --assets ards,mrds": _WORKSPACE,
    "make smoke-databricks": _WORKSPACE,
    "make test-online URL='mssql+mssqlpython://…'": "needs a SQL Server",
    ".venv/bin/uv pip install -e '.[sqlserver]'": "would change the environment of these tests",
    "make test": _SUITE,
    "make test-slow": _SUITE,
    "make test-connect": _SUITE,
    "make test-browser": _SUITE,
    "make lint": _SUITE,
    "make bench": "takes most of an hour",
    "make bench-online": "takes minutes, and needs Feast",
}
#: The files that commands before it make.
MADE = {"contracts/orders.yaml"}


# -- the quick part: all that is printed exists ------------------------------------------------------------


def ids(command: Command) -> str:
    return f"{command.place}: {command.line}"


@pytest.mark.parametrize("command", {command.name: command for command in PRINTED}.values(), ids=ids)
def test_a_printed_command_has_the_options_targets_and_files_it_names(command: Command) -> None:
    words = command.words
    if words[0] == "export":
        names = {word.partition("=")[0] for word in words[1:]}
        assert {name for name in names if name.startswith("ML_PLATFORM_")} <= settings_names()
    elif command.ours is not None:
        parsed(command.ours)
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in words[1:] if "=" not in word and word not in targets] == []
    else:
        assert words[0] in ("head", "mv", "rm", "curl", "sqlite3", ".venv/bin/uv")


def test_a_printed_command_is_run_or_there_is_a_reason_why_not() -> None:
    printed = {command.name for command in PRINTED if command.words[0] != "export"}
    run = {Command(step.command, "").name for step in RUN}
    left_out = {Command(line, "").name for line in NOT_RUN}
    assert printed - run - left_out == set(), "these are printed and never run"
    assert (run | left_out) - printed == set(), "these are printed nowhere"
    assert run & left_out == set()


def test_every_command_has_an_example_in_its_help() -> None:
    shown = {command.place for command in in_help()}
    assert {f"{' '.join(path)} --help" for path in COMMANDS} == shown


@pytest.mark.parametrize("command", {command.line: command for command in in_text()}.values(), ids=ids)
def test_a_command_in_a_sentence_has_the_options_it_names(command: Command) -> None:
    line = re.sub(r"<[^>]*>|…", "PRODUCT", command.line).replace("[", "").replace("]", "")
    words = shlex.split(line)[1:]
    path, leaf = called(words)
    options = {name for parameter in leaf.params for name in (*parameter.opts, *parameter.secondary_opts)}
    named = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert named <= options | {"--help"}, path


def test_links_between_the_pages_lead_to_headings_and_files_that_are_there() -> None:
    broken = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(f"{page.name}: {target}")
    assert broken == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def settings_names() -> set[str]:
    return {f"ML_PLATFORM_{name.upper()}" for name in Settings.model_fields}


def called(words: list[str]) -> tuple[tuple[str, ...], Any]:
    """The command that words call, by its path."""
    for length in (2, 1):
        path = tuple(words[:length])
        if path in COMMANDS:
            return path, COMMANDS[path]
    raise AssertionError(f"there is no command ml-platform {' '.join(words[:2])}")


def parsed(words: list[str]) -> None:
    """Have Click read the arguments, without running the command."""
    path, command = called(words)
    with command.make_context(" ".join(path), list(words[len(path) :])) as context:
        for parameter in command.params:
            value = context.params.get(parameter.name or "")
            if path == ("check",) and isinstance(value, Path):
                assert (CHECKOUT / value).exists() or str(value) in MADE


# -- the slow part: they are run ---------------------------------------------------------------------------


class Checkout:
    """A folder in which commands run as in a checkout, with a home of its own."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place = place
        self.pages: dict[str, str] = {}
        place.mkdir()
        for name in ("ml_platform", "Makefile"):
            (place / name).symlink_to(CHECKOUT / name)
        settings = settings_in(place / "var")
        monkeypatch.chdir(place)
        monkeypatch.delenv("DAGSTER_HOME", raising=False)
        write_history(place / "history.csv.gz")
        for name, value in {
            "ML_PLATFORM_PRODUCTS": str(place / "contracts"),
            "ML_PLATFORM_HOME": str(place / "var"),
            "ML_PLATFORM_SPARK_CONF": json.dumps(settings.spark_options),
            "ML_PLATFORM_SPARK_DRIVER_MEMORY": settings.spark_driver_memory,
            "COLUMNS": "200",
        }.items():
            monkeypatch.setenv(name, value)

    def run(self, command: Command) -> tuple[int, str]:
        """Run a command; returns its exit code and what it says."""
        words, ours = command.words, command.ours
        if words[:2] == ["make", "demo"]:
            return self.make("demo", "FROM=2013-01-01", "TO=2013-04-30")
        if words[:2] == ["make", "ui"] or (ours and ours[0] == "ui"):
            return self.serve(["ui"], ("--reports-port", "--port", "--mlflow-port"), "/_today/index.html")
        if words[0] == "curl" or (ours and ours[:2] == ["online", "serve"]):
            return self.serve(["online", "serve"], ("--port",), "/flights/features?tailnum=N14228")
        if ours is not None:
            return self.ours(ours)
        if words[0] == "sqlite3":  # its shell may not be there; what it does is in Python too
            target = self.place / words[2].split()[1]
            with sqlite3.connect(self.place / words[1]) as source, sqlite3.connect(target) as copy:
                source.backup(copy)
            return 0, ""
        done = subprocess.run(
            command.line, shell=True, cwd=self.place, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def ours(self, words: list[str]) -> tuple[int, str]:
        result = CliRunner().invoke(app, words)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def make(self, *words: str) -> tuple[int, str]:
        """Run what a target of the Makefile would, in this process."""
        shown = subprocess.run(
            ["make", "-n", *words], cwd=self.place, capture_output=True, text=True, check=True
        ).stdout
        code, said = 0, ""
        for line in shown.splitlines():
            command = Command(line, "Makefile")
            if command.ours is not None and not code:
                code, more = self.ours(command.ours)
                said += more
        assert said, shown
        return code, said

    def serve(self, words: list[str], options: tuple[str, ...], path: str) -> tuple[int, str]:
        """Start servers on free ports, ask the first one for a page, and interrupt them; once is enough."""
        if path in self.pages:
            return 0, self.pages[path]
        ports = dict(zip(options, free_ports(len(options)), strict=True))
        chosen = [word for option, port in ports.items() for word in (option, str(port))]
        command = [sys.executable, "-m", "ml_platform.cli.entry", *words, *chosen]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                page = answer_of(f"http://127.0.0.1:{ports[options[0]]}{path}", server)
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(60)
        self.pages[path] = page
        return 0, page


def write_history(path: Path) -> None:
    """Two months of orders, of which dear ones are returned more often."""
    draw = random.Random(7)
    with gzip.open(path, "wt", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["order", "day", "customer", "amount", "channel", "returned"])
        for n in range(60):
            day = date(2024, 1, 1) + timedelta(days=n)
            for order in range(120):
                amount = round(draw.gammavariate(2, 30), 2)
                returned = int(draw.random() < (0.75 if amount > 60 else 0.1))
                customer = f"c{draw.randrange(400):03}"
                channel = draw.choice(["web", "app", "shop"])
                lines.writerow([n * 1000 + order, day, customer, amount, channel, returned])


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answer_of(url: str, server: subprocess.Popen[bytes]) -> str:
    """The page at an address, as soon as its server answers."""
    while server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url) as answer:
            return answer.read().decode()
        time.sleep(0.2)
    raise AssertionError(f"the server of {url} has ended with {server.returncode}")


@contextlib.contextmanager
def receiver() -> Iterator[str]:
    """An address that alerts can be sent to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_printed_command_does_what_its_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Checkout(tmp_path / "checkout", monkeypatch)
    problems = []
    with receiver() as address:
        monkeypatch.setenv("ML_PLATFORM_ALERT_URLS", address)
        for step in RUN:
            began = time.monotonic()
            code, said = checkout.run(Command(step.command, "RUN"))
            words = " ".join(said.split())
            print(f"{time.monotonic() - began:6.1f} s  {step.command}", flush=True)
            # What a page shows must have something to do, unless it shows just that.
            in_vain = "nothing to" in words and "nothing to" not in step.says
            if code != step.code or step.says not in words or in_vain:
                problems.append(
                    f"{step.command}\nended with {code}, not {step.code}, or lacks {step.says!r}:\n{said}"
                )
                print(problems[-1], flush=True)
            assert problems == [] or step is not RUN[0], "nothing else can be run"
    assert problems == []
