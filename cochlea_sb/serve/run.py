"""Start the web application of a library."""

import ipaddress
import secrets
import socket
from typing import Any

from cochlea_sb.errors import MissingExtra, UserError
from cochlea_sb.library.sound_library import SoundLibrary


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def serve(library: SoundLibrary, host: str = "127.0.0.1", port: int = 8000, public: bool = False) -> None:
    """Serve a library until the process is interrupted, and print its address. Arguments as in `prepare`."""
    server, address = prepare(library, host, port, public)
    print(address, flush=True)
    server.run()


def prepare(library: SoundLibrary, host: str, port: int, public: bool = False) -> tuple[Any, str]:
    """Return a uvicorn server that listens, and the address of its page.

    Only this computer can open the page, unless ``host`` is another address. Then every request needs a token, which is
    part of the address.

    Arguments
    ---------
    library : SoundLibrary
    host : str, address to listen at; ``0.0.0.0`` for all addresses of the computer
    port : int, 0 to 65,535; 0 takes a free one
    public : bool
        Whether everyone who reaches the address may open the page, without a token and under any name, as behind a
        proxy.

    Raises
    ------
    UserError
        If uvicorn or starlette are missing, or the port is out of range or in use.
    """
    try:
        from cochlea_sb.serve.app import create_app
        from cochlea_sb.serve.collection import Collection
        from cochlea_sb.serve.server import Server
    except ImportError as error:
        raise MissingExtra("The page", "starlette and uvicorn", "serve") from error
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 1 << 16:
        raise UserError(f"port is {port!r}: expected a whole number from 0 to 65535.")
    token = None if public or is_loopback(host) else secrets.token_urlsafe(16)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"Port {port} of {host} can't be used ({error.strerror}): choose another --port.") from error
    port = listener.getsockname()[1]
    hosts = None if public or token else {f"{name}:{port}" for name in (host, "localhost", "127.0.0.1", "[::1]")}
    shown = f"[{host}]" if ":" in host else host
    collection = Collection(library)
    collection.warm_up()
    server = Server(create_app(collection, hosts, token), listener)
    return server, f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
