"""A forward's matrix products on a CPU, weights as PyTorch multiplies them and packed once for oneDNN.

    python benchmarks/cpu_linear.py [--target FOLDER] [--dtype float32] [--threads 2] [--json FILE]

Layers and LM head have the target's shapes and weights of their own, so that caches behave as in serving.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoConfig

from domino_sglang.demo.target import prepare_target
from domino_sglang.measure.environment import hardware, versions
from domino_sglang.serving.cpu.linear import PackedWeight

ROWS = (1, 2, 6, 8, 24, 48)


def weights(config, dtype: torch.dtype) -> list[torch.Tensor]:
    """Fused QKV, output, fused gate and up, and down projections of every layer, then the LM head."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = [(queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner)]
    shapes = shapes * config.num_hidden_layers + [(config.vocab_size, hidden)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def milliseconds(run: Callable[[], object], repetitions: int) -> float:
    """Median, one warm-up left out."""
    run()
    times = []
    for _ in range(repetitions):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) * 1e3)
    return statistics.median(times)


@torch.no_grad()
def measure(config, dtype: torch.dtype, repetitions: int) -> list[dict[str, float]]:
    matrices = weights(config, dtype)
    packed = [PackedWeight() for _ in matrices]
    rows = []
    for count in ROWS:
        inputs = {matrix.shape[1]: torch.randn(count, matrix.shape[1]).to(dtype) for matrix in matrices}

        def plain(inputs=inputs) -> None:
            for matrix in matrices:
                F.linear(inputs[matrix.shape[1]], matrix)

        def once(inputs=inputs) -> None:
            for matrix, copy in zip(matrices, packed, strict=True):
                copy.linear(inputs[matrix.shape[1]], matrix, None)

        plain_ms, packed_ms = milliseconds(plain, repetitions), milliseconds(once, repetitions)
        rows.append({"rows": count, "plain_ms": plain_ms, "packed_ms": packed_ms})
        print(f"{count:3d} rows: {plain_ms:7.1f} ms plain, {packed_ms:7.1f} ms packed", flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, help="folder with a config.json (default: the demo's)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the result to this file")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    config = AutoConfig.from_pretrained(args.target or prepare_target()).get_text_config()
    rows = measure(config, getattr(torch, args.dtype), args.repetitions)
    if args.json:
        about = {"dtype": args.dtype, "threads": args.threads, "hardware": hardware(), "versions": versions()}
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
