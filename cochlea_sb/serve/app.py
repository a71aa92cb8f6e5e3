"""The web application of `cochlea serve`: a page, and the JSON interface that it calls.

`page/openapi.json` describes the interface. An error is JSON, ``{"error": "one sentence"}``.
"""

import mimetypes
import os
import secrets
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import anyio.to_thread
import soundfile
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cochlea_sb.errors import UserError
from cochlea_sb.library.results import Match
from cochlea_sb.machine import n_cores
from cochlea_sb.serve import params
from cochlea_sb.serve.archive import archive, is_sound_file
from cochlea_sb.serve.collection import Collection, Sound
from cochlea_sb.serve.guard import COOKIE, Guard, problem, with_headers, with_public_headers
from cochlea_sb.serve.wav import wav_range

LARGEST_UPLOAD = 64 << 20  # bytes
LONGEST_WAIT = 20.0  # seconds that a request waits for a map
PLAYED_BY_BROWSERS = {"WAV": {"PCM_16", "PCM_U8"}, "OGG": None, "FLAC": None, "MP3": None}
PAGE = Path(str(resources.files("cochlea_sb.serve") / "page"))


def create_app(collection: Collection, hosts: set[str] | None, token: str | None = None) -> Starlette:
    """Make the application.

    Arguments
    ---------
    collection : Collection
    hosts : set of str or None
        Values of the header ``Host`` that are answered, such as ``127.0.0.1:8000``. Others are refused, so that a page
        of another site can't reach the application under its own name (DNS rebinding). None: any, with a token; or
        for everyone, if there is no token. For everyone, ``X-Forwarded-Host`` of a proxy is also a name of this site.
    token : str, optional
        A secret that each request must bring: in the cookie that the address ``/?token=...`` sets.
    """
    searching = anyio.CapacityLimiter(n_cores())

    async def computed(function: Any, *arguments: Any) -> Any:
        """The result of a function that takes the processor, outside the event loop."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=searching)

    async def look() -> None:
        if collection.is_stale():
            await computed(collection.read)

    async def library(request: Request) -> Response:
        state = collection.state
        labels = sorted({label for label in state.sounds["label"].unique().to_pylist() if label is not None})
        facts = {"sounds": len(collection.names), "windows": collection.library.n_windows, "labels": labels[:1000]}
        facts["takes_text"] = bool(state.manifest["encoder"].get("text"))
        return JSONResponse({"id": collection.id, **facts, "hop_seconds": state.manifest["hop_seconds"]})

    def listed(matches: list[Match]) -> Response:
        return JSONResponse({"results": [collection.sound_of(match) for match in matches]})

    async def browse(request: Request) -> Response:
        values = request.query_params
        seed = params.number(values, "seed", secrets.randbelow(10**6), 0, 10**9)
        sounds = await computed(collection.browse, params.filters(values), seed, *params.page_of(values))
        return JSONResponse({"results": [sound.as_json() for sound in sounds]})

    async def search(request: Request) -> Response:
        values = request.query_params
        k, skip = params.page_of(values)
        options = params.filters(values) | params.variety(values) | {"skip": skip}
        return listed(await computed(collection.search, params.examples(values), k, options))

    async def rank(request: Request) -> Response:
        values = request.query_params
        yes, no = params.marks(values, "yes"), params.marks(values, "no")
        k, skip = params.page_of(values)
        options = params.filters(values) | params.variety(values) | {"skip": skip}
        return listed(await computed(collection.rank, yes, no, values.get("doubtful") == "1", k, options))

    async def add_example(request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > LARGEST_UPLOAD:
                return problem(f"The file has more than {LARGEST_UPLOAD >> 20} MiB: drop a shorter one.", 413)
        return JSONResponse({"id": await computed(collection.add_example, bytes(content))})

    def named(request: Request) -> Sound:
        return collection.sound(request.path_params["name"])

    async def sound(request: Request) -> Response:
        return JSONResponse(named(request).as_json())

    async def audio(request: Request) -> Response:
        found = named(request)
        if await run_in_threadpool(plays_in_browsers, found):
            return FileResponse(found.path, media_type=media_type(found))
        return await run_in_threadpool(wav_range, found.path, found.seconds, request.headers.get("range"))

    async def file(request: Request) -> Response:
        found = named(request)
        if not await run_in_threadpool(is_sound_file, found.path):
            return problem("This sound is not a file, or not there any more.", 404)
        return FileResponse(found.path, media_type=media_type(found), headers=as_download(found.as_json()["name"]))

    async def outline(request: Request) -> Response:
        found = await run_in_threadpool(collection.outline, request.path_params["name"])
        return JSONResponse({"outline": found.points, "level": found.level, "peak": found.peak})

    async def collected(request: Request) -> Response:
        names = request.query_params.getlist("id")
        if not 1 <= len(names) <= params.MOST_MARKS:
            raise UserError(f"The collection has {len(names):,} sounds: expected 1 to {params.MOST_MARKS:,}.")
        sounds = [collection.sound(name) for name in names if name in collection.rows]
        if not sounds:
            raise UserError("The library holds none of these sounds any more.")
        return StreamingResponse(archive(sounds), media_type="application/zip", headers=as_download("sounds.zip"))

    async def duplicates(request: Request) -> Response:
        task = collection.task("duplicates")
        if task.error:
            raise UserError(task.error)
        groups = [[collection.duplicate(one) for one in group] for group in task.result or []]
        return JSONResponse({"done": task.done if task.result is None else 1, "groups": groups})

    async def mapped(request: Request) -> Any:
        """The map and its points, or None if it is still being computed."""
        kind = request.query_params.get("by") or "pca"
        if kind not in ("pca", "umap"):
            raise UserError(f"by is '{kind[:20]}': expected pca or umap.")
        task = collection.task(kind)
        await run_in_threadpool(task.thread.join, LONGEST_WAIT if kind == "pca" else 0.5)
        if task.error:
            raise UserError(task.error)
        return task.result

    async def map_facts(request: Request) -> Response:
        found = await mapped(request)
        return JSONResponse({"ready": False} if found is None else {"ready": True, **found[0]})

    async def map_points(request: Request) -> Response:
        found = await mapped(request)
        if found is None:
            return problem("The map is still being computed: try again later.", 503, {"Retry-After": "2"})
        return Response(found[1], media_type="application/octet-stream")

    guarded = Guard(hosts, token, look)

    async def page(request: Request) -> Response:
        given = request.query_params.get("token")
        response = Response((PAGE / "index.html").read_bytes(), media_type="text/html")
        if token is not None and given is not None and secrets.compare_digest(given.encode(), token.encode()):
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return response
        return guarded.refusal(request) or response

    routes = [
        Route("/", page),
        Route("/api/library", guarded(library)),
        Route("/api/browse", guarded(browse)),
        Route("/api/search", guarded(search)),
        Route("/api/rank", guarded(rank)),
        Route("/api/examples", guarded(add_example), methods=["POST"]),
        Route("/api/sounds/{name}", guarded(sound)),
        Route("/api/sounds/{name}/audio", guarded(audio)),
        Route("/api/sounds/{name}/file", guarded(file)),
        Route("/api/sounds/{name}/outline", guarded(outline)),
        Route("/api/collection.zip", guarded(collected)),
        Route("/api/duplicates", guarded(duplicates)),
        Route("/api/map", guarded(map_facts)),
        Route("/api/map/points", guarded(map_points)),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]
    dispatch = with_public_headers if guarded.public else with_headers
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch)])


def media_type(sound: Sound) -> str:
    return mimetypes.guess_type(sound.path)[0] or "application/octet-stream"


def as_download(name: str) -> dict[str, str]:
    """The header that makes a browser save an answer under a name."""
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}


def plays_in_browsers(sound: Sound) -> bool:
    """Whether browsers play the file as it is."""
    if not os.path.isfile(sound.path):  # a pipe would wait for its writer
        return False
    try:
        facts = soundfile.info(os.fsencode(sound.path))
    except (soundfile.SoundFileError, OSError):
        return False
    kinds = PLAYED_BY_BROWSERS.get(facts.format, set())
    return (kinds is None or facts.subtype in kinds) and 8000 <= facts.samplerate <= 48000 and facts.channels <= 2
