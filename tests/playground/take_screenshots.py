"""Take docs/screenshots anew, from two real servers: DOMINO and plain decoding.

python -m tests.playground.take_screenshots --url http://127.0.0.1:30000 --compare http://127.0.0.1:30001
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from domino_sglang.measure.sse import events_async
from domino_sglang.playground import command
from domino_sglang.playground.app import create_app
from tests.support.browser import chromium
from tests.support.paths import ROOT
from tests.support.sglang_double import sse
from tests.support.web import Served

FOLDER = ROOT / "docs" / "screenshots"
PROMPT = "Write a Python function that adds two numbers."
FINISHED = "() => document.getElementById('send').disabled === false && document.querySelector('.run')"
DESKTOP, PHONE = (900, 640), (360, 700)
CUT_AFTER = 12


def relay(url: str) -> FastAPI:
    """The server at ``url``, lost in the middle of every answer."""
    app = FastAPI()
    client = httpx.AsyncClient(base_url=url, timeout=300)

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def pass_on(path: str, request: Request):
        body = await request.body()
        if path != "generate":
            reply = await client.request(request.method, "/" + path, content=body, headers=_json(request))
            return Response(reply.content, reply.status_code, media_type=reply.headers.get("content-type"))

        async def until_cut():
            async with client.stream("POST", "/generate", content=body, headers=_json(request)) as reply:
                count = 0
                async for event in events_async(reply.aiter_bytes()):
                    yield sse(event)
                    count += 1
                    if count == CUT_AFTER:
                        raise ConnectionError("cut")

        return StreamingResponse(until_cut(), media_type="text/event-stream")

    return app


def _json(request: Request) -> dict[str, str]:
    return {"Content-Type": request.headers["content-type"]} if "content-type" in request.headers else {}


def shoot(context, name: str, url: str, size=DESKTOP, scheme: str = "light") -> None:
    page = context.new_page()
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    page.goto(url)
    page.wait_for_selector("#servers li:last-child.ok")
    page.evaluate("() => { document.getElementById('max_tokens').value = 96; }")
    page.fill("#prompt", PROMPT)
    page.press("#prompt", "Enter")
    page.wait_for_function(FINISHED, timeout=300_000)
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    file = FOLDER / f"{name}.png"
    page.screenshot(path=file)
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    command.add_arguments(parser)
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as context,
        Served(create_app([args.url])) as one,
        Served(create_app([args.url, args.compare])) as two,
        Served(relay(args.url)) as cut,
        Served(create_app([cut.url])) as lost,
    ):
        shoot(context, "light", one.url)
        shoot(context, "dark", one.url, scheme="dark")
        shoot(context, "phone", one.url, size=PHONE)
        shoot(context, "race", two.url)
        shoot(context, "lost", lost.url)


if __name__ == "__main__":
    main()
