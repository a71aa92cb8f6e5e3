"""The web application of `cochlea serve`: a page, and a small JSON interface that it calls.

    GET  /api/library                          numbers of sounds and windows, labels
    GET  /api/random?k=24                      sounds, drawn at random
    GET  /api/search?like=ID[,start,end][*weight]&like=...&k=24&skip=0&words=&label=&min_seconds=&max_seconds=
                     &per_folder=&fold_copies=1
    POST /api/examples                         the contents of a file -> {"id": ...} for `like`; the file is not kept
    GET  /api/sounds/ID                        a sound
    GET  /api/sounds/ID/audio                  the file, or WAV if a browser can't play it; byte ranges work
    GET  /api/sounds/ID/outline                240 numbers from 0 to 100, the peaks of its parts; its level in dB

An error is JSON, ``{"error": "one sentence"}``, with the status 400, 403, 404, 413 or 415.
"""

import mimetypes
import secrets
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any

import soundfile
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from cochlea_sb.errors import AudioError, UserError
from cochlea_sb.serve.collection import Collection, Sound, short_name
from cochlea_sb.serve.wav import wav_range

LARGEST_UPLOAD = 64 << 20  # bytes
MOST_RESULTS = 200
PLAYED_BY_BROWSERS = {"WAV": {"PCM_16", "PCM_U8"}, "OGG": None, "FLAC": None, "MP3": None}
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self'; script-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
COOKIE = "cochlea_token"

Handler = Callable[[Request], Awaitable[Response]]


def create_app(collection: Collection, hosts: set[str] | None, token: str | None = None) -> Starlette:
    """Make the application.

    Arguments
    ---------
    collection : Collection
    hosts : set of str or None
        Values of the header ``Host`` that are answered, such as ``127.0.0.1:8000``. Others are refused, so that a page
        of another site can't reach the application under its own name (DNS rebinding). None: any, but with a token.
    token : str, optional
        A secret that each request must bring: in the cookie that the address ``/?token=...`` sets.
    """

    async def library(request: Request) -> Response:
        state = collection.state
        labels = sorted({label for label in state.sounds["label"].to_pylist() if label is not None})
        facts = {"sounds": len(collection.names), "windows": collection.library.n_windows, "labels": labels[:1000]}
        return JSONResponse({**facts, "hop_seconds": state.manifest["hop_seconds"]})

    async def random(request: Request) -> Response:
        sounds = collection.random(number(request, "k", 24, 1, MOST_RESULTS))
        return JSONResponse({"results": [shown(sound) for sound in sounds]})

    async def search(request: Request) -> Response:
        values = request.query_params
        examples = [weighted(text) for text in values.getlist("like")]
        if not 1 <= len(examples) <= 20:
            raise UserError(f"The query has {len(examples)} examples: expected 1 to 20.")
        filters: dict[str, Any] = {name: values[name] for name in ("words", "label") if values.get(name)}
        filters |= {name: real(values[name], name) for name in ("min_seconds", "max_seconds") if values.get(name)}
        if values.get("per_folder"):
            filters["per_folder"] = number(request, "per_folder", 1, 1, 10**6)
        filters["fold_copies"] = values.get("fold_copies") == "1"
        k, skip = number(request, "k", 24, 1, MOST_RESULTS), number(request, "skip", 0, 0, 10**6)
        matches = await run_in_threadpool(collection.search, examples, k, skip, filters)
        results = []
        for match in matches:
            sound = collection.sound(short_name(match.path))
            stretch = {"start": match.start_seconds, "end": match.end_seconds, "score": round(match.score, 4)}
            results.append(shown(sound) | stretch | {"copies": [shown_path(path) for path in match.copies]})
        return JSONResponse({"results": results})

    async def add_example(request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > LARGEST_UPLOAD:
                return problem(f"The file has more than {LARGEST_UPLOAD >> 20} MiB: drop a shorter one.", 413)
        return JSONResponse({"id": await run_in_threadpool(collection.add_example, bytes(content))})

    async def sound(request: Request) -> Response:
        return JSONResponse(shown(collection.sound(request.path_params["name"])))

    async def audio(request: Request) -> Response:
        found = collection.sound(request.path_params["name"])
        if await run_in_threadpool(plays_in_browsers, found):
            kind = mimetypes.guess_type(found.path)[0] or "application/octet-stream"
            return FileResponse(found.path, media_type=kind)
        return await run_in_threadpool(wav_range, found.path, found.seconds, request.headers.get("range"))

    async def outline(request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(collection.outline, request.path_params["name"]))

    def guarded(handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            response = refused(request, hosts, token)
            if response is None:
                try:
                    response = await handler(request)
                except (UserError, AudioError) as error:
                    response = problem(str(error), 404 if "holds no sound" in str(error) else 400)
                except FileNotFoundError as error:
                    response = problem(f"'{error.filename}' is not there any more.", 404)
            return response

        return answer

    async def page(request: Request) -> Response:
        given = request.query_params.get("token")
        response = Response((PAGE / "index.html").read_bytes(), media_type="text/html")
        if token is not None and given is not None and secrets.compare_digest(given, token):
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
            return response
        return refused(request, hosts, token) or response

    routes = [
        Route("/", page),
        Route("/api/library", guarded(library)),
        Route("/api/random", guarded(random)),
        Route("/api/search", guarded(search)),
        Route("/api/examples", guarded(add_example), methods=["POST"]),
        Route("/api/sounds/{name}", guarded(sound)),
        Route("/api/sounds/{name}/audio", guarded(audio)),
        Route("/api/sounds/{name}/outline", guarded(outline)),
        Mount("/static", StaticFiles(directory=PAGE)),
    ]

    async def headers(request: Request, call_next: Handler) -> Response:
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response

    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, dispatch=headers)])


PAGE = Path(str(resources.files("cochlea_sb.serve") / "page"))


def refused(request: Request, hosts: set[str] | None, token: str | None) -> Response | None:
    """The refusal of a request from elsewhere, or None."""
    host, origin = request.headers.get("host"), request.headers.get("origin")
    if hosts is not None and host not in hosts:
        return problem("This address is not served here.", 403)
    if origin is not None and origin.partition("://")[2] != host:
        return problem("Requests of other sites are refused.", 403)
    if token is not None and not secrets.compare_digest(request.cookies.get(COOKIE, ""), token):
        return problem("Open the address with the token that `cochlea serve` has printed.", 403)
    return None


def problem(sentence: str, status: int) -> Response:
    return JSONResponse({"error": sentence}, status)


def shown(sound: Sound) -> dict[str, Any]:
    return sound.as_json()


def shown_path(path: str) -> str:
    return path.encode("utf-8", "replace").decode()


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A whole number of the query string; raises a UserError if it is none, or out of range."""
    text = request.query_params.get(name)
    if not text:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UserError(f"{name} is '{text[:20]}': expected a whole number from {least} to {most}.")
    return int(text)


def real(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{name} is '{text[:20]}': expected a number of seconds.") from error


def weighted(text: str) -> tuple[str, float]:
    """Split ``ID[,start,end][*weight]``."""
    example, times, weight = text.partition("*")
    return example, real(weight, "weight") if times else 1.0


def plays_in_browsers(sound: Sound) -> bool:
    """Whether browsers play the file as it is."""
    try:
        facts = soundfile.info(sound.path)
    except (soundfile.SoundFileError, OSError):
        return False
    kinds = PLAYED_BY_BROWSERS.get(facts.format, set())
    return (kinds is None or facts.subtype in kinds) and 8000 <= facts.samplerate <= 48000 and facts.channels <= 2
