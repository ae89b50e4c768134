"""What the page's server answers: the page, and an HTTP API (described at /docs).

No address leads to a file but through the index: a name that it does not have is refused.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import json
import logging
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field

from imagescope import __version__
from imagescope.config import PACKAGE
from imagescope.errors import UserError
from imagescope.own import library, pictures, show
from imagescope.own.answers import Answer
from imagescope.own.desk import Desk
from imagescope.own.guard import LOOPBACK
from imagescope.own.pictures import Filter
from imagescope.own.references import SIDE, References
from imagescope.own.scope import ImageScope

log = logging.getLogger("imagescope")
LONGEST = 2000  # characters of a text
SEARCHES = 64  # under way or waiting at a time
UPLOADS = 16  # arriving at a time
DECODING = 2  # pictures decoded at a time: each may take a gigabyte for a moment
PAGE = 48  # pictures at a time
KEPT = {"cache-control": "private, max-age=600"}  # for the browser, ten minutes


class Question(BaseModel):
    """What is looked for. reference: a name of the index, or what /api/references answered.
    previous: a description that the text refines: `carried` of the answer before."""

    text: str = Field(max_length=LONGEST)
    reference: str = Field(default="", max_length=LONGEST)
    previous: str = Field(default="", max_length=2 * LONGEST)
    top: int = Field(
        default=0, ge=0, le=PAGE, description="how many pictures; 0: as `serve` was told"
    )
    where: Filter = Filter()


class Named(BaseModel):
    """A picture of the index."""

    name: str


class Part(Filter):
    """Some of the pictures that match."""

    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=PAGE, ge=1, le=1000)

    def of(self, manifest: library.Manifest) -> tuple[int, tuple[str, ...]]:
        """How many match, and the names of this part."""
        names = self.names(manifest)
        return len(names), names[self.offset : self.offset + self.limit]


class Api:
    """The routes of one index. uploads: the folder where references are kept.  top: how many
    pictures a search shows."""

    def __init__(self, desk: Desk, uploads: Path, top: int):
        self.desk, self.scope, self.top = desk, desk.scope, top
        self.manifest = desk.scope.manifest
        self.references = References(self.manifest, uploads)
        self.searches = asyncio.Semaphore(SEARCHES)
        self.uploads = asyncio.Semaphore(UPLOADS)
        self.decoding = asyncio.Semaphore(DECODING)

    def app(self) -> FastAPI:
        title = f"ImageScope: {self.scope.name}"
        app = FastAPI(title=title, version=__version__, docs_url=None, redoc_url=None)
        router = APIRouter()
        router.add_api_route("/api/index", self.index)
        router.add_api_route("/api/pictures", self.pictures)
        router.add_api_route("/api/thumbnail", self.thumbnail, response_class=FileResponse)
        router.add_api_route("/api/view", self.view, response_class=Response)
        router.add_api_route("/api/file", self.file, response_class=StreamingResponse)
        router.add_api_route("/api/search", self.search, methods=["POST"])
        router.add_api_route(
            "/api/references",
            self.reference,
            methods=["POST"],
            openapi_extra={"requestBody": {"required": True, "content": {"image/*": {}}}},
        )
        router.add_api_route("/api/open", self.open, methods=["POST"], status_code=204)
        for path, page in (
            ("/", self.page),
            ("/docs", self.docs),
            ("/page/pictures", self.cards),
            ("/static/{name}", self.static),
        ):
            router.add_api_route(path, page, include_in_schema=False)
        router.add_api_route(
            "/page/search", self.search_page, methods=["POST"], include_in_schema=False
        )
        app.include_router(router)
        app.add_exception_handler(UserError, self.refuse)
        self._openapi = app.openapi
        return app

    async def refuse(self, request: Request, error: Exception) -> JSONResponse:
        log.info("page: %s", error)
        return JSONResponse({"detail": without_folders(str(error), self.scope)}, 400)

    # -- the API -------------------------------------------------------------------------------

    def index(self) -> dict[str, Any]:
        """The index: its size, what can be filtered by, and three queries that find something."""
        method = self.scope.method
        return {
            "name": self.scope.name,
            "pictures": len(self.scope),
            "method": method.name,
            "needs_reference": method.needs_reference,
            "examples": [] if method.needs_reference else pictures.examples(self.manifest),
            **pictures.choices(self.manifest),
        }

    def pictures(self, part: Annotated[Part, Query()]) -> dict[str, Any]:
        """The pictures that match, newest file first, with their captions."""
        count, names = part.of(self.manifest)
        entries = self.manifest.pictures
        return {
            "count": count,
            "pictures": [
                {"name": n, "caption": entries[n].caption, "day": str(pictures.day(entries[n]))}
                for n in names
            ],
        }

    def thumbnail(self, name: str) -> FileResponse:
        """A picture of the index as a JPEG of 384 pixels a side at most; an upload as it is."""
        path = self.references.find(name)
        if entry := self.manifest.pictures.get(name):
            path = library.thumbnail(self.scope.name, entry)
            if not path.exists():
                raise HTTPException(404, "the thumbnail is gone: index the folder again")
        return FileResponse(path, headers=KEPT)

    async def view(self, name: str) -> Response:
        """A picture of the index as a JPEG of at most 2048 pixels a side, without its metadata."""
        async with self.decoding:
            content = await run_in_threadpool(self._large, name)
        return Response(content, media_type="image/jpeg", headers=KEPT)

    def _large(self, name: str) -> bytes:
        from imagescope.models.decoding import UnreadableImage, thumbnail

        pictures.open_picture(self.manifest, name).close()
        path, buffer = self.manifest.folder / name, io.BytesIO()
        try:
            thumbnail(path, SIDE).save(buffer, "JPEG", quality=90)
        except UnreadableImage as error:
            raise UserError(str(error).replace(str(path), name)) from None
        return buffer.getvalue()

    def file(self, name: str) -> StreamingResponse:
        """The file of a picture of the index, as it is."""
        file = pictures.open_picture(self.manifest, name)
        saved = quote(Path(name).name, safe="")
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{saved}",
            "content-length": str(self.manifest.pictures[name].size),
        }
        return StreamingResponse(pictures.chunks(file), 200, headers, "application/octet-stream")

    async def search(self, question: Question, request: Request) -> StreamingResponse:
        """Answers as lines of JSON, better after each stage; the last has no `upcoming`."""
        local = is_local(request)

        def line(answer: Answer) -> dict[str, Any]:
            found = show.as_json(answer)
            if not local:  # where things lie on the server is not a visitor's to know
                found["reference"] = Path(found["reference"] or "").name or None
                for result in found["results"]:
                    del result["path"]
            return found | {"upcoming": answer.upcoming, "carried": answer.carried}

        return await self._stream(question, line)

    async def reference(self, request: Request) -> dict[str, str]:
        """Takes a picture, the whole body, as what a search can start from; answers its name."""
        if self.uploads.locked():
            raise HTTPException(503, "too many uploads at a time: try again")
        async with self.uploads:
            with tempfile.NamedTemporaryFile(prefix="upload-") as file:
                async for part in request.stream():
                    file.write(part)
                file.flush()
                async with self.decoding:
                    name = await run_in_threadpool(self.references.take, Path(file.name))
        return {"reference": name}

    def open(self, picture: Named, request: Request) -> Response:
        """Shows a picture in the file manager, for a visitor on the server's own machine."""
        if not is_local(request):
            raise HTTPException(403, "only on the machine that the pictures are on")
        pictures.reveal(self.manifest, picture.name)
        return Response(status_code=204)

    # -- the page ------------------------------------------------------------------------------

    def page(self, request: Request) -> HTMLResponse:
        here = is_local(request) and bool(pictures.file_manager())
        return HTMLResponse(show.render("web.html.jinja", index=self.index(), opens=here))

    def docs(self) -> HTMLResponse:
        return HTMLResponse(show.render("docs.html.jinja", api=self._openapi()))

    def static(self, name: str) -> FileResponse:
        path = show.STATIC.get(name)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, headers={"cache-control": "no-cache"})

    def cards(self, part: Annotated[Part, Query()], request: Request) -> JSONResponse:
        count, names = part.of(self.manifest)
        results = [pictures.result(self.scope.name, self.manifest, name) for name in names]
        html = show.cards(results, show.Served(is_local(request)), False)
        return JSONResponse({"count": count, "html": html, "next": part.offset + len(names)})

    async def search_page(self, question: Question, request: Request) -> StreamingResponse:
        links = show.Served(is_local(request))

        def line(answer: Answer) -> dict[str, Any]:
            return {
                "html": show.cards(answer, links, answer.by_score),
                "meaning": show.meaning(answer),
                "status": show.progress(answer),
                "verdict": show.NOTHING_FITS if answer.nothing_fits else "",
                "carried": answer.carried,
                "done": not answer.upcoming,
            }

        return await self._stream(question, line)

    # -- searching -----------------------------------------------------------------------------

    async def _stream(
        self, question: Question, line: Callable[[Answer], dict[str, Any]]
    ) -> StreamingResponse:
        """The answers of a search as lines; what is wrong with the question is said at once."""
        if self.searches.locked():
            raise HTTPException(503, "too many searches at a time: try again")
        answers = self._answers(question)
        first = await anext(answers)

        async def lines() -> AsyncIterator[str]:
            async with aclosing(answers):
                yield json.dumps(line(first)) + "\n"
                try:
                    async for answer in answers:
                        yield json.dumps(line(answer)) + "\n"
                except UserError as error:
                    log.info("page: %s", error)
                    words = without_folders(str(error), self.scope)
                    yield json.dumps({"error": words}) + "\n"

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def _answers(self, question: Question) -> AsyncGenerator[Answer]:
        """Better after each stage. A visitor who leaves, or asks something else, ends this before
        the next stage costs anything."""
        reference, among = None, None
        if question.reference:
            reference = self.references.find(question.reference)
        if question.where != Filter():
            among = await run_in_threadpool(question.where.names, self.manifest)
            if not among:
                raise UserError("no picture matches the filters")
        top, previous = question.top or self.top, question.previous or None
        steps = self.scope.stages(question.text, reference, None, top, previous, True, among)
        async with self.searches:
            try:
                while (answer := await asyncio.wrap_future(self.desk.step(steps))) is not None:
                    yield answer
            finally:
                self.desk.drop(steps)


def is_local(request: Request) -> bool:
    """Whether the visitor sits at this machine: from the loopback, under a loopback name, and not
    through a proxy."""
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "via"))
    name = urlsplit(f"//{request.headers.get('host', '')}").hostname
    with suppress(ValueError):
        client = ipaddress.ip_address(request.client.host if request.client else "")
        return client.is_loopback and name in LOOPBACK and not forwarded
    return False


def without_folders(text: str, scope: ImageScope) -> str:
    """A message for visitors: where things lie on the server is not theirs to know."""
    places = (scope.manifest.folder, library.home(), Path.home(), Path.cwd(), PACKAGE.parent)
    for place in sorted({str(place) for place in places}, key=len, reverse=True):
        if place != "/":
            text = text.replace(f"{place}/", "").replace(place, "…")
    return re.sub(r"(?<![\w:/.])/(?:[^\s/:;,'\"()]+/)+", "", text)
