"""``domino-sglang playground --url URL [--compare URL]``: chat with a server and see what every verify step commits."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys

from domino_sglang.names import PLAYGROUND_API_KEY
from domino_sglang.playground.upstream import server_url

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--url", required=True, type=_url, help="the SGLang server to chat with")
    parser.add_argument("--compare", metavar="URL", type=_url, help="another server to race it against")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one (default %(default)s)")
    parser.epilog = f"Servers started with --api-key: put the key into ${PLAYGROUND_API_KEY}."


def run(args: argparse.Namespace) -> int:
    """Serve the page until interrupted; 1 when the port cannot be had."""
    import uvicorn

    from domino_sglang.playground.app import LOOPBACK, create_app

    try:
        listener = socket.create_server((args.host, args.port))
    except (OSError, OverflowError) as error:
        logger.error("cannot listen on %s:%d (%s); pass another --port", args.host, args.port, error)
        return 1
    urls = [args.url, *([args.compare] if args.compare else [])]
    app = create_app(
        urls,
        api_key=os.environ.get(PLAYGROUND_API_KEY),
        allowed_hosts=LOOPBACK if args.host in LOOPBACK else ("*",),
    )
    page = f"http://{args.host}:{listener.getsockname()[1]}"
    sys.stdout.write(f"Playground on {page} for {' and '.join(urls)}. Ctrl-C ends it.\n")
    sys.stdout.flush()
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    return 0


def _url(text: str) -> str:
    try:
        return server_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
