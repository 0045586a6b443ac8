"""The web application of the board: reads only, answers only to this machine's own name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from factorlm.board.store import Board
from factorlm.errors import UserError
from factorlm.reporting.asset import plotly_js
from factorlm.reporting.html import FILES as SHARED

OWN = Path(__file__).parent / "page"
HOSTS = ["127.0.0.1", "localhost"]  # a page elsewhere that gives its name our address gets nothing
PAGES = {
    "/": (OWN / "board.html", "text/html"),
    "/board.css": (OWN / "board.css", "text/css"),
    "/board.js": (OWN / "board.js", "text/javascript"),
    "/style.css": (SHARED / "style.css", "text/css"),
    "/charts.js": (SHARED / "charts.js", "text/javascript"),
    "/plotly.js": (plotly_js(), "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def make_app(root: Path) -> FastAPI:
    """The application over the store under ``root``."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    board = Board(root)

    @app.middleware("http")
    async def secure(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)

    @app.exception_handler(UserError)
    async def mistake(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=422)

    for path, (file, kind) in PAGES.items():
        app.add_api_route(path, _file(file, kind), methods=["GET"])

    @app.get("/api/runs")
    def runs(request: Request) -> Response:
        content = JSONResponse(board.rows()).body
        tag = f'"{sha256(content).hexdigest()[:16]}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(content, media_type="application/json", headers={"ETag": tag})

    @app.get("/api/curves")
    def curves(run: Annotated[list[str], Query()], key: str | None = None) -> dict[str, Any]:
        return board.curves(run, key)

    @app.get("/api/compare")
    def compare(study: str, baseline: str, arm: str) -> dict[str, Any]:
        return board.compare(study, baseline, arm)

    return app


def _file(path: Path, kind: str) -> Callable[[], FileResponse]:
    return lambda: FileResponse(path, media_type=kind)
