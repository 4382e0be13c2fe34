"""The web server of the page: what may be asked, by whom, and what is answered."""

import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import uvicorn
from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from saaae.errors import UserError
from saaae.explore.corruptions import ADJUSTABLE
from saaae.explore.explored import Explored
from saaae.explore.gallery import THUMBNAIL
from saaae.explore.pictures import addresses, png, sheet
from saaae.explore.recipe import Both, Plane, Recipe, Samples
from saaae.visualization.mosaic import Row, mosaic, pixels_of

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")
"""Names of this machine by which the page may be asked for: another one is a foreign page that resolves to it."""
LARGEST_FILE = 64 * 2**20
"""Bytes of an image that is dropped into the page, at most."""
LARGEST_QUESTION = 2**20
STATIC = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Asked = TypeVar("Asked", bound=BaseModel)


class Guard:
    """Answers 403 to whoever does not know the token, or asks for another host than this machine.

    Args:
        app: The application behind it.
        token: First part of all addresses.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
        given = scope["path"].removeprefix("/").partition("/")[0]  # OPTIONS may ask for "*"
        if (
            scope["type"] != "http"
            or host not in NAMES
            or not secrets.compare_digest(given.encode(), self.token.encode())
        ):
            await PlainTextResponse("403: not allowed", 403, HEADERS)(scope, receive, send)
            return
        await self.app(scope, receive, send)


class Page:
    """The page of one model, or of two on the same images.

    Args:
        models: The models; the first one's gallery is that of the page.
    """

    def __init__(self, models: Sequence[Explored]) -> None:
        self.models, self.gallery = models, models[0].gallery
        self._lock = threading.Lock()  # one computation at a time: torch shares the cores already
        self._thumbnails: bytes | None = None

    def application(self, token: str) -> ASGIApp:
        """The application whose addresses begin with /<token>/."""
        ask: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
            "view": (Recipe, self.view),
            "decode": (Recipe, self.decode),
            "path": (Recipe, self.path),
            "plane": (Plane, self.plane),
            "samples": (Samples, self.samples),
            "picture": (Both, self.picture),
        }
        routes = [
            *(Route(f"/{name}", _static(*file)) for name, file in STATIC.items()),
            Route("/info", self._reading(self.info)),
            Route("/thumbnails.png", self._reading(self.thumbnails)),
            Route("/own", self._own, methods=["POST"]),
            *(Route(f"/{name}", self._asking(*each), methods=["POST"]) for name, each in ask.items()),
        ]
        return Guard(Starlette(routes=[Mount(f"/{token}", routes=routes)]), token)

    # Answers

    def info(self) -> dict[str, Any]:
        """What the page needs to know once."""
        gallery = self.gallery
        model = gallery.model
        return {
            "models": [each.describe() for each in self.models],
            "count": gallery.count, "size": model.image_size, "names": gallery.names,
            "thumbnail": min(THUMBNAIL, model.image_size), "class_names": gallery.class_names,
            "groups": gallery.groups, "corruptions": list(ADJUSTABLE),
        }  # fmt: skip

    def thumbnails(self) -> Response:
        """All images in small, 16 in a row."""
        if self._thumbnails is None:
            self._thumbnails = sheet(self.gallery.thumbnails())
        return Response(self._thumbnails, media_type="image/png", headers=HEADERS)

    def view(self, recipe: Recipe) -> dict[str, Any]:
        return self._model(recipe).view(recipe)

    def decode(self, recipe: Recipe) -> dict[str, Any]:
        return self._model(recipe).decoded(recipe)

    def path(self, recipe: Recipe) -> dict[str, Any]:
        """The images of the path, as addresses."""
        if recipe.other is None:
            raise UserError("other: expected the image at the end of the path")
        return {"images": addresses(Row("", self._model(recipe).path(recipe)))}

    def plane(self, plane: Plane) -> dict[str, Any]:
        return self._model(plane).plane(plane.x, plane.y, plane.cell)

    def samples(self, asked: Samples) -> dict[str, Any]:
        """Samples of the prior, as addresses."""
        return {"images": addresses(Row("", self._model(asked).samples(asked.seed, asked.label)))}

    def picture(self, both: Both) -> Response:
        """A PNG file of what is shown: a row for each kind of picture, a column for each run."""
        pixels = mosaic(self._rows(both.recipes), self._title(both.recipes))
        return Response(png(pixels), media_type="image/png", headers=HEADERS)

    def _rows(self, recipes: Sequence[Recipe]) -> list[Row]:
        """A row for each kind of picture, with a picture of each run that has it; then a path for each run."""
        columns = []
        for recipe in recipes:
            rows = self._model(recipe).rows(recipe)
            columns.append({row.label: row for row in [rows[0], *self._model(recipe).moved(recipe), *rows[1:]]})
        size = columns[0][next(iter(columns[0]))].images.shape[-2:]
        found = []
        for label in dict.fromkeys(label for column in columns for label in column):
            pictures = [pixels_of(each[label], *size) if label in each else np.zeros((1, *size, 3), np.uint8)
                        for each in columns]  # fmt: skip
            found.append(Row(label, np.concatenate(pictures).transpose(0, 3, 1, 2)))
        paths = [self._model(recipe).path(recipe) for recipe in recipes if recipe.other is not None]
        return [*found, *(Row("path", path) for path in paths)]

    def _title(self, recipes: Sequence[Recipe]) -> str:
        return "\n".join(f"{self._model(recipe).name}: {recipe.image}" for recipe in recipes)

    def _model(self, recipe: Recipe) -> Explored:
        if recipe.model >= len(self.models):
            raise UserError(f"model {recipe.model}: this page shows one run")
        return self.models[recipe.model]

    # How questions arrive

    def _reading(self, work: Callable[[], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await self._answer(work)

        return endpoint

    def _asking(self, kind: type[Asked], work: Callable[[Asked], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            try:
                asked = kind.model_validate_json(await _body(request, LARGEST_QUESTION))
            except ValidationError as error:
                first = error.errors()[0]
                return _refused(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
            except UserError as error:
                return _refused(str(error))
            return await self._answer(work, asked)

        return endpoint

    async def _own(self, request: Request) -> Response:
        """Takes the bytes of an image; `?ending=.png` is that of its name."""
        try:
            content = await _body(request, LARGEST_FILE)
        except UserError as error:
            return _refused(str(error))
        ending = request.query_params.get("ending", "")
        return await self._answer(lambda: {"image": self.gallery.add(content, ending)})

    async def _answer(self, work: Callable[..., Any], *arguments: Any) -> Response:
        """What `work` returns, as JSON; one line for a UserError."""

        def locked() -> Any:
            with self._lock:
                return work(*arguments)

        try:
            found = await run_in_threadpool(locked)
        except UserError as error:
            return _refused(str(error))
        return found if isinstance(found, Response) else JSONResponse(found, headers=HEADERS)


async def _body(request: Request, largest: int) -> bytes:
    """The body of a request.

    Raises:
        UserError: If it is larger than `largest` bytes.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise UserError(f"larger than {largest // 2**20} MB")
        parts.append(part)
    return b"".join(parts)


def _refused(reason: str) -> Response:
    return JSONResponse({"error": reason}, 400, headers=HEADERS)


def _static(name: str, media_type: str) -> Callable[[Request], Any]:
    """Answers with a file of the package."""
    content = (Path(__file__).parent / name).read_bytes()

    async def endpoint(request: Request) -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return endpoint


def serve(page: Page, port: int, opened: Callable[[str], None]) -> None:
    """Serves a page on this machine only, until Ctrl-C.

    Args:
        page: The page.
        port: The port; 0 for a free one.
        opened: Called with the address before the first request.

    Raises:
        UserError: If the port is taken or not allowed.
    """
    token = secrets.token_urlsafe(16)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()
        except OSError as error:
            raise UserError(f"port={port}: {error.strerror}; expected a free one, or 0, which finds one") from None
        opened(f"http://{HOST}:{listening.getsockname()[1]}/{token}/")
        config = uvicorn.Config(
            page.application(token), log_level="warning", access_log=False, lifespan="off", ws="none"
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listening])
