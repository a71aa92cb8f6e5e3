"""Refuse requests from elsewhere, answer mistakes with one sentence, and bound the work that waits."""

import logging
import secrets
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cochlea_sb.errors import EncoderError, UserError

LOGGER = logging.getLogger(__name__)
MOST_WAITING = 64  # requests that are being answered; more are refused with the status 503
COOKIE = "cochlea_token"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self'; script-src 'self'; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Handler = Callable[[Request], Awaitable[Response]]


class Guard:
    """Arguments as in `create_app`. ``before`` is called before each request that is not refused."""

    def __init__(
        self, hosts: set[str] | None, token: str | None, before: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.hosts, self.token, self.before, self.waiting = hosts, token, before, 0
        self.public = hosts is None and token is None

    def refusal(self, request: Request) -> Response | None:
        """The refusal of a request, or None."""
        host, origin = request.headers.get("host"), request.headers.get("origin")
        if self.hosts is not None and host not in self.hosts:
            return problem("This address is not served here.", 403)
        names = {host, request.headers.get("x-forwarded-host")} if self.public else {host}  # only a proxy can set it
        if origin is not None and origin.partition("://")[2] not in names:
            return problem("Requests of other sites are refused.", 403)
        if self.token is not None and not secrets.compare_digest(request.cookies.get(COOKIE, ""), self.token):
            return problem("Open the address with the token that `cochlea serve` has printed.", 403)
        return None

    def __call__(self, handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            refusal = self.refusal(request)
            if refusal is not None:
                return refusal
            if self.waiting >= MOST_WAITING:
                return problem("Too many requests at once: try again in a second.", 503, {"Retry-After": "1"})
            self.waiting += 1
            try:
                if self.before is not None:
                    await self.before()
                return await handler(request)
            except EncoderError as error:
                LOGGER.error("%s%s", error.traceback, error)
                return problem(str(error), 500)
            except UserError as error:
                return problem(str(error), 404 if "holds no sound" in str(error) else 400)
            except FileNotFoundError as error:
                return problem(f"'{error.filename}' is not there any more.", 404)
            finally:
                self.waiting -= 1

        return answer


def problem(sentence: str, status: int, headers: dict[str, str] | None = None) -> Response:
    sentence = sentence.encode("utf-8", "replace").decode()
    return JSONResponse({"error": sentence}, status, headers)


async def with_headers(request: Request, call_next: Handler) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def with_public_headers(request: Request, call_next: Handler) -> Response:
    """As `with_headers`, but the Hub may show the page inside its page of a Space."""
    response = await with_headers(request, call_next)
    policy = HEADERS["Content-Security-Policy"].replace("ancestors 'none'", "ancestors https://huggingface.co")
    response.headers["Content-Security-Policy"] = policy
    return response
