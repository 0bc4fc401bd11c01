"""KV pages of several tokens on a CPU: the allocator's bookkeeping, prefixes shared by the page, and a full pool."""

from __future__ import annotations

import pytest
import torch

from tests.support.drafters import write_drafter
from tests.support.targets import VOCAB, write_target

FLAGS = {
    "overlap": ("4", ["--max-total-tokens", "1024"]),
    "sync, prompts in pieces": (
        "16",
        ["--max-total-tokens", "1024", "--disable-overlap-schedule", "--chunked-prefill-size", "16"],
    ),
    "full pool": ("4", ["--max-total-tokens", "240", "--schedule-conservativeness", "0.05"]),
}


@pytest.mark.parametrize("case", FLAGS)
def test_texts_do_not_depend_on_pages(fork_server, tmp_path, case):
    target = write_target(tmp_path / "target")
    drafter = write_drafter(tmp_path / "drafter", target)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, VOCAB, (length,), generator=generator).tolist() for length in (40, 9, 70)]
    prompts += [[*prompts[0], 5, 6, 7], [*prompts[2][:50], 9]]
    requests = [
        (prompt, {"temperature": 0, "ignore_eos": True, "max_new_tokens": 30 + i, "arrives": 8 * i})
        for i, prompt in enumerate(prompts)
    ]
    page_size, flags = FLAGS[case]
    domino = ["--speculative-algorithm", "DOMINO", "--speculative-draft-model-path", str(drafter)]
    plain, ours = (
        fork_server.ask("together", argv=["--model-path", str(target), *more], requests=requests)
        for more in (["--max-total-tokens", "1024"], ["--page-size", page_size, *flags, *domino])
    )
    assert "value" in ours, ours
    assert ours["value"]["outputs"] == plain["value"]["outputs"]
    # Whole pages of the shared prefixes.
    assert case == "full pool" or ours["value"]["cached"][3:] == [40 // int(page_size) * int(page_size), 48]
    assert (sum(ours["value"]["retractions"]) > 0) == (case == "full pool")
