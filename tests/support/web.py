"""An ASGI app served from a thread of the test's own process."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn


class Served:
    """``with Served(app) as served: ... served.url``; may be stopped and started again on its port."""

    def __init__(self, app):
        self.app = app
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Served:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < deadline, "the app did not start within 30 s"
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(20)
        self.listener.close()

    __enter__ = start

    def __exit__(self, *_error) -> None:
        if self.thread.is_alive():
            self.stop()
