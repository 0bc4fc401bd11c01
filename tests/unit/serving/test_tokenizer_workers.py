"""A process that reads a server's arguments from shared memory knows DOMINO by then."""

from __future__ import annotations

import contextlib
import subprocess
import sys

from sglang.srt.managers.multi_tokenizer_mixin import write_data_for_multi_tokenizer

from domino_sglang.serving.tokenizer_workers import send_plugins

READER = """
import sys
from sglang.srt.managers.multi_tokenizer_mixin import read_from_shared_memory
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm
port_args, server_args, scheduler_info = read_from_shared_memory(sys.argv[1])
print("READ", port_args, server_args, scheduler_info, SpeculativeAlgorithm.from_string("DOMINO"))
"""


def test_reading_the_arguments_loads_the_plugins():
    scheduler_info = {"max_req_input_len": 7}
    shared = send_plugins(write_data_for_multi_tokenizer, "ports", "arguments", scheduler_info)
    try:
        reader = [sys.executable, "-c", READER, shared.name]
        reply = subprocess.run(reader, capture_output=True, text=True, timeout=600)
    finally:
        # A reader that is not this process's child in multiprocessing's eyes takes the memory with it.
        with contextlib.suppress(FileNotFoundError):
            shared.unlink()
    said = [line for line in reply.stdout.splitlines() if line.startswith("READ")]
    assert said == ["READ ports arguments {'max_req_input_len': 7, 'plugins_loaded': True} CustomSpecAlgo('DOMINO')"], (
        reply.stderr
    )
    assert scheduler_info == {"max_req_input_len": 7}
