"""A uvicorn server on a socket that already listens."""

import socket
from typing import Any

import uvicorn


class Server(uvicorn.Server):
    def __init__(self, app: Any, listener: socket.socket) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", server_header=False, lifespan="off"))
        self.listener = listener

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets or [self.listener])
