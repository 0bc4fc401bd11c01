"""Greedy exactness: DOMINO's tokens against plain decoding's, over HTTP, at concurrency 1 and 8, cold and warm cache.

    python benchmarks/exactness.py                          # starts both servers on the demo's target
    python benchmarks/exactness.py --domino-url URL --ar-url URL --max-tokens 64 --json FILE

The exit status is 0 only when every token of every prompt is the same in every pass. A difference is reported with
what both servers think of the two tokens at the first place where they part.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.prompts import everything
from tests.support.client import Client

MODEL = "SmolLM2-135M-Instruct"
CONCURRENCY = (1, 8)


@dataclass(frozen=True)
class Difference:
    """The first place where one prompt's outputs part.

    Attributes:
        prompt: its name.
        position: of the first differing output token.
        plain, domino: the token of each arm there, None past its end.
        gaps: by server, how far its log-probability of plain's token is above that of DOMINO's, after the same prefix.
    """

    prompt: str
    position: int
    plain: int | None
    domino: int | None
    gaps: dict[str, float]

    def __str__(self) -> str:
        gaps = ", ".join(f"{name} puts {gap:+.6f} between them" for name, gap in self.gaps.items())
        return f"{self.prompt}: token {self.position} is {self.domino}, plain decoding's is {self.plain} ({gaps})"


def tokenize(client: Client, prompts: dict[str, list[str]]) -> dict[str, list[int]]:
    """Kind -> messages, to name -> token ids in the chat template."""
    return {
        f"{kind} {i}": client.chat_ids(message)
        for kind, messages in prompts.items()
        for i, message in enumerate(messages)
    }


def compare(
    prompts: dict[str, list[int]],
    plain: Sequence[list[int]],
    domino: Sequence[list[int]],
    *,
    plain_client: Client,
    domino_client: Client,
) -> list[Difference]:
    """Differences between two passes over the same prompts."""
    found = []
    for (name, prompt), expected, got in zip(prompts.items(), plain, domino, strict=True):
        if expected == got:
            continue
        shared = next(
            (i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), min(map(len, (expected, got)))
        )
        tokens = [ids[shared] if shared < len(ids) else None for ids in (expected, got)]
        gaps = {}
        if None not in tokens:
            prefix = prompt + expected[:shared]
            gaps = {"AR": _gap(plain_client, prefix, tokens), "DOMINO": _gap(domino_client, prefix, tokens)}
        found.append(Difference(name, shared, tokens[0], tokens[1], gaps))
    return found


def _gap(client: Client, prefix: list[int], tokens: list[int]) -> float:
    reply = client.generate(prefix, {"max_new_tokens": 1}, return_logprob=True, token_ids_logprob=tokens)
    logprob = {entry[1]: entry[0] for entry in reply["meta_info"]["output_token_ids_logprobs"][0]}
    return logprob[tokens[0]] - logprob[tokens[1]]


def run_pass(client: Client, prompts: dict[str, list[int]], max_tokens: int, concurrency: int, name: str) -> list:
    """Output ids of every prompt, so many at a time."""
    with ThreadPoolExecutor(concurrency) as pool:
        asked = pool.map(lambda prompt: client.ids(prompt, {"max_new_tokens": max_tokens}), prompts.values())
        return list(tqdm(asked, total=len(prompts), desc=name))


def measure(domino: Client, ar: Client, max_tokens: int) -> dict:
    """All passes; the result as ``--json`` writes it."""
    prompts = tokenize(ar, everything())
    plain = {}
    for concurrency in CONCURRENCY:
        ar.flush_cache()
        plain[concurrency] = run_pass(ar, prompts, max_tokens, concurrency, f"AR x{concurrency}")
    clients = {"plain_client": ar, "domino_client": domino}
    passes = []
    for concurrency in CONCURRENCY:
        domino.flush_cache()
        for cache in ("cold", "warm"):
            ours = run_pass(domino, prompts, max_tokens, concurrency, f"DOMINO x{concurrency} {cache}")
            differences = compare(prompts, plain[concurrency], ours, **clients)
            passes.append({"concurrency": concurrency, "cache": cache, "differences": [asdict(d) for d in differences]})
            for difference in differences:
                tqdm.write(f"x{concurrency} {cache}: {difference}")
    first, *others = plain.values()
    return {
        "prompts": len(prompts),
        "tokens": sum(map(len, first)),
        "max_tokens": max_tokens,
        "passes": passes,
        "plain_decoding_differs_from_itself": sum(
            a != b for other in others for a, b in zip(first, other, strict=True)
        ),
        "acceptance_length": domino.server_info()["internal_states"][0].get("avg_spec_accept_length"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domino-url", help="a running DOMINO server (default: start one)")
    parser.add_argument("--ar-url", help="a running plain server (default: start one)")
    parser.add_argument("--target", type=Path, help="target of the servers to start (default: the demo's)")
    parser.add_argument("--drafter", type=Path, help="drafter of the server to start (default: the packaged one)")
    parser.add_argument("--dtype", default="float32", help="of the servers to start (default %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="per prompt (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")
    args = parser.parse_args(argv)
    began = time.monotonic()
    with ExitStack() as stack:
        urls = _urls(args, stack)
        result = measure(Client(urls["DOMINO"], MODEL), Client(urls["AR"], MODEL), args.max_tokens)
    failed = sum(len(one["differences"]) for one in result["passes"])
    length = result["acceptance_length"]
    sys.stdout.write(
        f"{result['prompts']} prompts, {result['tokens']} tokens, {len(result['passes'])} passes, "
        f"acceptance length {length if length is None else round(length, 2)}, {time.monotonic() - began:.0f} s: "
        f"{'all tokens identical' if not failed else f'{failed} outputs differ'}\n"
    )
    if args.json is not None:
        from domino_sglang.measure.environment import hardware, versions

        command = " ".join(["python", "benchmarks/exactness.py", *(sys.argv[1:] if argv is None else argv)])
        result |= {"hardware": hardware(), "versions": versions(), "command": command, "date": time.strftime("%F")}
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if failed else 0


def _urls(args: argparse.Namespace, stack: ExitStack) -> dict[str, str]:
    from domino_sglang.demo import packaged_drafter, prepare_target
    from domino_sglang.measure.server_process import ServerProcess

    urls = {"DOMINO": args.domino_url, "AR": args.ar_url}
    missing = [name for name, url in urls.items() if url is None]
    if not missing:
        return urls
    target = args.target or prepare_target()
    logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="exactness-")))
    common = ["--model-path", str(target), "--served-model-name", MODEL, "--dtype", args.dtype]
    servers = {}
    for name in missing:
        flags = []
        if name == "DOMINO":
            drafter = args.drafter or packaged_drafter()
            flags = ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
        servers[name] = stack.enter_context(ServerProcess([*common, *flags], logs / f"{name}.log"))
    for name, server in servers.items():
        with tqdm(desc=f"starting {name}", bar_format="{desc} {elapsed}", leave=False) as bar:
            server.wait_until_ready(tick=lambda _passed, bar=bar: bar.refresh())
        urls[name] = server.url
    return urls


if __name__ == "__main__":
    raise SystemExit(main())
