"""MLflow's web server, whose pages open as those of trained models.

Since version 3 MLflow shows each person language models' traces, until they switch to "Model training"; the
kind of an experiment isn't asked. Its pages remember the choice in the browser, so the first page sets it for
whoever has made none. ``mlflow server --app-name ml_platform`` starts it, by the entry point ``mlflow.app``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: The name of the entry point.
APP_NAME = "ml_platform"
#: What the pages of MLflow keep in a browser: their kind, and that the assistant has been seen.
_CHOICES = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


def create_app() -> Any:
    """MLflow's own application, with the first page changed."""
    from fastapi.responses import HTMLResponse
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app

    index = Path(str(pages.static_folder)) / "index.html"

    def first_page() -> HTMLResponse:
        return HTMLResponse(with_choices(index.read_text(encoding="utf-8")))

    # Before MLflow's own route, which takes all that is left.
    app.router.add_api_route("/", first_page, methods=["GET"])
    app.router.routes.insert(0, app.router.routes.pop())
    return app


def with_choices(page: str) -> str:
    """A page that makes a browser's choices where it has none, before its own scripts run."""
    lines = "".join(
        f"if (localStorage.getItem('{key}') === null) localStorage.setItem('{key}', '{value}');"
        for key, value in _CHOICES.items()
    )
    script = f"<script>try {{ {lines} }} catch (error) {{}}</script>"
    return page.replace("<head>", f"<head>{script}", 1)
