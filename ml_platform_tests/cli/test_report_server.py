"""Reports over HTTP: what lies in a report's place is served, and nothing else, whoever asks and however."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from ml_platform.cli import servers
from ml_platform.cli.report_server import build_app
from ml_platform.engine.report_targets import report_base, report_links, served_folder
from ml_platform.settings import Settings

SECRET = "the password of everything"
DAY = "shop/validation_report/2024-01-03"


class Stub:
    """Pages of one product."""

    def of_all(self) -> str:
        return "<h1>all</h1>"

    def of_product(self, name: str) -> str:
        return {"shop": "<h1>shop</h1>"}[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "reports"
    report = place / DAY
    report.mkdir(parents=True)
    (report / "report.html").write_text("<h1>a report</h1>")
    (report / "report.json").write_text("{}")
    (report / "quarantine.csv").write_text("file,line\n")
    (report / ".report.html.1").write_text(SECRET)
    (report / "report.py").write_text(SECRET)
    (tmp_path / "secret.html").write_text(SECRET)
    (tmp_path / "outside" / "2024-01-03").mkdir(parents=True)
    (tmp_path / "outside" / "2024-01-03" / "report.html").write_text(SECRET)
    (report / "link.html").symlink_to(tmp_path / "secret.html")
    (place / "shop" / "linked").symlink_to(tmp_path / "outside")
    (place / "secret.html").write_text(SECRET)
    return place


@pytest.fixture
def client(folder: Path) -> TestClient:
    return TestClient(build_app(folder, Stub()), base_url="http://127.0.0.1:3001", follow_redirects=False)


@pytest.mark.parametrize(
    ("file", "kind"),
    [("report.html", "text/html"), ("report.json", "application/json"), ("quarantine.csv", "text/csv")],
)
def test_the_files_of_a_report_are_served_as_what_they_are(client: TestClient, file: str, kind: str) -> None:
    answer = client.get(f"/{DAY}/{file}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.html",
        "/shop/validation_report/2024-01-03/../../../../secret.html",
        "/shop/validation_report/2024-01-03/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fsecret.html",
        "/shop/validation_report/2024-01-03/..%2f..%2f..%2f..%2fsecret.html",
        "/shop/validation_report/%2e%2e/secret.html",
        "/shop/validation_report/2024-01-03/..%5c..%5csecret.html",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/shop/validation_report/2024-01-03/%2fetc%2fpasswd",
        "/shop/validation_report/2024-01-03/report.html%00.csv",
        "/shop/validation_report/2024-01-03/link.html",
        "/shop/linked/2024-01-03/report.html",
        "/shop/linked/",
        "/shop/validation_report/2024-01-03/.report.html.1",
        "/shop/validation_report/2024-01-03/report.py",
        "/shop/validation_report/2024-01-03/",
        "/shop/validation_report/2024-01-03",
        "/shop/validation_report/2024-01-04/report.html",
        "/secret.html",
        "/shop/%2e%2e/",
        "/shop/no_such_asset/",
    ],
)
def test_whatever_is_no_report_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert SECRET not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    ("path", "leads_to"), [("/", "/_today/index.html"), ("/shop/", "/shop/_today/index.html")]
)
def test_whoever_comes_without_a_page_is_led_to_today(client: TestClient, path: str, leads_to: str) -> None:
    assert client.get(path).headers["location"] == leads_to
    page = client.get(leads_to)
    assert page.status_code == 200
    assert "<h1>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_product_that_is_unknown_has_no_page(client: TestClient) -> None:
    assert client.get("/other/_today/index.html").status_code == 404


def test_only_reports_are_listed(client: TestClient) -> None:
    listed = client.get("/shop/validation_report/")
    assert listed.status_code == 200
    assert 'href="2024-01-03/report.html"' in listed.text
    for path in ("/", "/shop", "/shop/", "/shop/validation_report/2024-01-03/"):
        assert "secret" not in client.get(path).text


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3001", "127.0.0.1.evil.example", ""])
def test_a_page_of_another_name_reads_nothing(client: TestClient, host: str) -> None:
    assert client.get(f"/{DAY}/report.html", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(client: TestClient, folder: Path, method: str) -> None:
    assert client.request(method, f"/{DAY}/report.html").status_code == 405
    assert (folder / DAY / "report.html").read_text() == "<h1>a report</h1>"


def test_pages_with_scripts_are_kept_apart(client: TestClient, folder: Path) -> None:
    (folder / DAY / "evidently_1.html").write_text("<script>1</script>")
    policy = client.get(f"/{DAY}/evidently_1.html").headers["content-security-policy"]
    assert policy.startswith("sandbox ")
    assert "allow-same-origin" not in policy


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("http://127.0.0.1:3100", "http://127.0.0.1:3101")),
        ({"dagster_ui_url": "https://d.example"}, (None, "http://127.0.0.1:3101")),
        ({"reports_url": "https://r.example"}, ("http://127.0.0.1:3100", None)),
        ({"report_targets": ("dbfs:/reports",)}, ("http://127.0.0.1:3100", None)),
    ],
)
def test_the_ports_of_the_servers_reach_links_that_no_setting_leads_elsewhere(
    values: dict[str, object], expected: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def popen(words: list[str], env: dict[str, str], **_: object) -> None:
        found.append((env.get("ML_PLATFORM_DAGSTER_UI_URL"), env.get("ML_PLATFORM_REPORTS_URL")))
        raise KeyboardInterrupt

    found: list[object] = []
    monkeypatch.setattr("subprocess.Popen", popen)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    servers.serve(Settings(home=tmp_path, **values), 3100, 5100, 3101)  # type: ignore[arg-type]
    assert found == [expected]


# -- where links lead --------------------------------------------------------------------------------

BLOB = {"report_targets": ("azblob://reports/prod",), "blob_account_url": "https://a.blob.core.windows.net/"}


@pytest.mark.parametrize(
    ("values", "base"),
    [
        ({}, "http://127.0.0.1:3001"),
        ({"report_targets": ("/srv/reports",)}, "http://127.0.0.1:3001"),
        ({"report_targets": ("/srv/reports",), "reports_url": "https://r.example/x/"}, "https://r.example/x"),
        (BLOB, "https://a.blob.core.windows.net/reports/prod"),
        (BLOB | {"reports_url": "https://r.example"}, "https://r.example"),
        ({"report_targets": ("/Volumes/c/s/v/r",)}, "https://w.example/explore/data/volumes/c/s/v/r"),
        ({"report_targets": ("dbfs:/reports",)}, None),
    ],
)
def test_links_lead_to_where_people_read_reports(
    values: dict[str, object], base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABRICKS_HOST", "https://w.example/")
    assert report_base(Settings(**values)) == base  # type: ignore[arg-type]


def test_a_volume_whose_workspace_is_unknown_has_the_address_that_the_upload_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATABRICKS_HOST", raising=False)
    settings = Settings(report_targets=("/Volumes/c/s/v/r",))  # type: ignore[arg-type]
    assert report_base(settings) is None
    given = {"/Volumes/c/s/v/r": "https://w.example/explore/data/volumes/c/s/v/r/p/a/d/report.html"}
    assert report_links(settings, "p/a/d", given) == {"report": given["/Volumes/c/s/v/r"]}


def test_a_report_in_a_folder_is_followed_over_http_and_its_path_is_there_to_be_copied() -> None:
    links = report_links(Settings(), DAY, {"folder": "file:///srv/my%20reports/report.html"})
    assert links == {
        "report": f"http://127.0.0.1:3001/{DAY}/report.html",
        "report_file": "/srv/my reports/report.html",
    }


def test_the_served_folder_is_the_first_of_the_targets_that_is_one(tmp_path: Path) -> None:
    both = Settings(report_targets=("azblob://reports", str(tmp_path)), blob_account_url="https://a.example")  # type: ignore[arg-type]
    assert served_folder(both) == tmp_path
    assert served_folder(Settings(**BLOB)) is None  # type: ignore[arg-type]
    assert served_folder(Settings(home=tmp_path)) == tmp_path / "reports"
