"""A server that answers like SGLang's OpenAI endpoints, with delays and token counts that a test knows."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROMPT_TOKENS = 7


@dataclass
class Behaviour:
    """How the server answers.

    Attributes:
        ttft_s, tpot_s: delay to the first token, and of each later one.
        tokens: length of every answer.
        tokens_per_chunk: how many arrive at once, as after a verify step.
        answers_until_death: requests answered before it fails every further one; None is immortal.
        answer: text of an answer that is not streamed; None repeats "word ".
        metrics: text of ``/metrics``.
        tokenizer: folder that ``/model_info`` names.
        odd_prompt: the prompt, counted from 0, whose greedy tokens end with another one; None has no such prompt.
        used_tokens: KV slots that ``/v1/loads`` reports.
        bodies: what was asked.
        tokenized: conversations that ``/v1/tokenize`` was given, in order.
        hung_up: clients that left a stream early.
    """

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    tokens: int = 8
    tokens_per_chunk: int = 1
    answers_until_death: int | None = None
    answer: str | None = None
    metrics: str = ""
    tokenizer: str = ""
    odd_prompt: int | None = None
    used_tokens: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    hung_up: int = 0
    tokenized: dict[bytes, int] = field(default_factory=dict)


class FakeServer:
    """Serves on a free port, for use in a ``with`` statement."""

    def __init__(self, behaviour: Behaviour | None = None):
        self.behaviour = behaviour or Behaviour()
        handler = type("Handler", (_Handler,), {"behaviour": self.behaviour})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def start(self) -> FakeServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> FakeServer:
        return self.start()

    def __exit__(self, *_error) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour

    def log_message(self, *_args) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/metrics":
            return self._reply(self.behaviour.metrics, "text/plain")
        if self.path == "/v1/models":
            return self._reply(json.dumps({"data": [{"id": "fake"}]}))
        if self.path == "/model_info":
            return self._reply(json.dumps({"tokenizer_path": self.behaviour.tokenizer}))
        if self.path == "/v1/loads":
            load = {"num_running_reqs": 0, "num_waiting_reqs": 0, "num_used_tokens": self.behaviour.used_tokens}
            return self._reply(json.dumps({"loads": [load]}))
        return self._reply("{}", status=404)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.startswith("/flush_cache"):
            return self._reply("{}")
        body = json.loads(raw)
        behaviour = self.behaviour
        behaviour.bodies.append(body)
        if behaviour.answers_until_death is not None and len(behaviour.bodies) > behaviour.answers_until_death:
            return self._reply('{"error": "dead"}', status=500)
        if self.path == "/v1/tokenize":
            # Token ids that tell how many conversations came before.
            return self._reply(json.dumps({"tokens": [behaviour.tokenized.setdefault(raw, len(behaviour.tokenized))]}))
        if self.path == "/generate":
            return self._reply(json.dumps(self._generated(body)))
        return self._stream(body) if body.get("stream") else self._whole(body)

    def _whole(self, body: dict[str, Any]) -> None:
        behaviour = self.behaviour
        time.sleep(behaviour.ttft_s + behaviour.tpot_s * (behaviour.tokens - 1))
        text = behaviour.answer if behaviour.answer is not None else "word " * behaviour.tokens
        chat = "messages" in body
        choices = [
            {
                "index": i,
                "finish_reason": "length",
                **({"message": {"role": "assistant", "content": text}} if chat else {"text": text}),
                "logprobs": {"content": [{"logprob": -1.0}] * behaviour.tokens},
            }
            for i in range(body.get("n", 1))
        ]
        self._reply(json.dumps({"choices": choices, "usage": self._usage()}))

    def _generated(self, body: dict[str, Any]) -> dict[str, Any]:
        """Counts on from the prompt's last id; a token's log-probability is minus its id."""
        behaviour, ids = self.behaviour, body["input_ids"]
        tokens = [ids[-1] + 1 + i for i in range(min(behaviour.tokens, body["sampling_params"]["max_new_tokens"]))]
        if ids == [behaviour.odd_prompt]:
            tokens[-1] += 1
        logprobs = [[-float(token), token, None] for token in body.get("token_ids_logprob") or ()]
        return {"output_ids": tokens, "meta_info": {"output_token_ids_logprobs": [logprobs]}}

    def _stream(self, body: dict[str, Any]) -> None:
        behaviour = self.behaviour
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            time.sleep(behaviour.ttft_s)
            sent = 0
            while sent < behaviour.tokens:
                size = 1 if sent == 0 else min(behaviour.tokens_per_chunk, behaviour.tokens - sent)
                if sent:
                    time.sleep(behaviour.tpot_s * size)
                sent += size
                self._event({"choices": [{"index": 0, "delta": {"content": "word " * size}}]})
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                self._event({"choices": [], "usage": self._usage()})
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            behaviour.hung_up += 1

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": self.behaviour.tokens}

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _reply(self, text: str, kind: str = "application/json", status: int = 200) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
