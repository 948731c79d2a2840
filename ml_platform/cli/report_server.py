"""The reports over HTTP for a person at this machine: read-only, on loopback, nothing but reports.

`ml-platform ui` starts it as a process of its own. A path that isn't the form of a report's is not looked up.
"""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ml_platform.cli.console import instance_of
from ml_platform.contract.loading import load_products
from ml_platform.engine.report_targets import served_folder
from ml_platform.graph.today import Pages
from ml_platform.mlops.links import TODAY, TODAY_PAGE
from ml_platform.online_store.serving import LOOPBACK_NAMES, KnownHost
from ml_platform.settings import Settings

HOST = "127.0.0.1"
#: What a report's path is made of: a product or an asset, a partition, a file.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARTITION = re.compile(r"\d{4}-\d{2}-\d{2}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\.(html|json|csv)")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
}
#: The platform's own pages need no script. Evidently's do, and stand alone: they see nothing of others.
_OWN_PAGES = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
_PAGES_WITH_SCRIPTS = (
    "sandbox allow-scripts allow-popups; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:"
)


class Today(Protocol):
    """The pages of today."""

    def of_all(self) -> str: ...

    def of_product(self, name: str) -> str: ...


def build_app(folder: Path | None, today: Today) -> Any:
    """The application.

    Args:
        folder: where the reports lie; None if they are read elsewhere.
        today: makes the pages of today, when they are asked for.
    """
    one_at_a_time = Lock()

    def of_all(_: Request) -> Response:
        with one_at_a_time:
            return _own(today.of_all())

    def of_product(request: Request) -> Response:
        try:
            with one_at_a_time:
                return _own(today.of_product(request.path_params["product"]))
        except KeyError:
            return _not_found("There is no such product.")

    def to_today(request: Request) -> Response:
        name = request.path_params["product"]
        if not _NAME.fullmatch(name):
            return _not_found("There is no such product.")
        return RedirectResponse(f"/{name}/{TODAY}/{TODAY_PAGE}")

    def to_all(_: Request) -> Response:
        return RedirectResponse(f"/{TODAY}/{TODAY_PAGE}")

    def report(request: Request) -> Response:
        page = folder and file_of(folder, *(request.path_params[name] for name in _PARTS))
        if not page:
            return _not_found("There is no such report here: its day may not have been made yet.")
        own = not page.name.startswith("evidently_")
        return Response(
            page.read_bytes(),
            media_type=_TYPES[page.suffix],
            headers={"Content-Security-Policy": _OWN_PAGES if own else _PAGES_WITH_SCRIPTS},
        )

    def reports(request: Request) -> Response:
        names = [request.path_params[name] for name in ("product", "asset")]
        found = partitions(folder, *names) if folder else []
        if not found:
            return _not_found("There are no reports here.")
        links = "".join(f'<li><a href="{day}/report.html">{day}</a></li>' for day in found)
        return _page(f"{' / '.join(names)}: {len(found):,} reports", f"<ul>{links}</ul>")

    routes = [
        Route("/", to_all),
        Route(f"/{TODAY}/{TODAY_PAGE}", of_all),
        Route(f"/{{product}}/{TODAY}/{TODAY_PAGE}", of_product),
        Route("/{product}/", to_today),
        Route("/{product}/{asset}/{partition}/{file}", report),
        Route("/{product}/{asset}/", reports),
    ]
    app = Starlette(routes=routes, exception_handlers={404: lambda *_: _not_found("There is no such page.")})
    app.router.redirect_slashes = False  # what isn't found is that, whatever its end
    app.add_middleware(_Headers)
    app.add_middleware(KnownHost, names=LOOPBACK_NAMES, detail="reports are read on loopback only")
    return app


_PARTS = ("product", "asset", "partition", "file")


def file_of(folder: Path, product: str, asset: str, partition: str, file: str) -> Path | None:
    """A file of a report below ``folder``; None for anything else, wherever a link leads."""
    if not (
        _NAME.fullmatch(product)
        and _NAME.fullmatch(asset)
        and _PARTITION.fullmatch(partition)
        and _FILE.fullmatch(file)
    ):
        return None
    try:
        found = (folder / product / asset / partition / file).resolve(strict=True)
        within = found.is_relative_to(folder.resolve(strict=True))
    except OSError:
        return None
    return found if within and found.is_file() and found.suffix in _TYPES else None


def partitions(folder: Path, product: str, asset: str) -> list[str]:
    """The partitions of an asset that have a report, the newest first."""
    if not (_NAME.fullmatch(product) and _NAME.fullmatch(asset)):
        return []
    place = folder / product / asset
    try:
        if not place.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            return []
        found = [entry.name for entry in place.iterdir() if _PARTITION.fullmatch(entry.name)]
    except OSError:
        return []
    return sorted((day for day in found if file_of(folder, product, asset, day, "report.html")), reverse=True)


class _Headers:
    """Adds to each answer that browsers take it for what it says it is, and show it in no other page."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"x-content-type-options", b"nosniff"),
                    (b"x-frame-options", b"DENY"),
                    (b"referrer-policy", b"no-referrer"),
                    (b"cache-control", b"no-cache"),
                ]
            await send(message)

        await self.app(scope, receive, with_headers)


def _own(page: str) -> Response:
    return HTMLResponse(page, headers={"Content-Security-Policy": _OWN_PAGES})


def _not_found(said: str) -> Response:
    page = _page("Not found", f'<p>{html.escape(said)}</p><p><a href="/">Today</a></p>')
    page.status_code = 404
    return page


def _page(title: str, body: str) -> HTMLResponse:
    name = html.escape(title)
    return HTMLResponse(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>body{font:15px/1.6 system-ui,sans-serif;max-width:720px;margin:32px auto;padding:0 20px}"
        f"h1{{font-size:20px}}</style><h1>{name}</h1>{body}</html>",
        headers={"Content-Security-Policy": _OWN_PAGES},
    )


def main(port: int) -> None:
    """Serve until the process is interrupted."""
    import pyarrow.dataset  # noqa: F401 - half a second, which else the first page would take
    import uvicorn

    settings = Settings()
    products, broken = load_products(settings.product_folders)
    with instance_of(settings) as instance:
        problems = {path.name: str(error) for path, error in broken.items()}
        pages = Pages(products, settings, instance, problems=problems)
        uvicorn.run(build_app(served_folder(settings), pages), host=HOST, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
