"""Is this checkpoint a drafter that can be served, and does it fit the target? Answered from headers, in milliseconds.

No weight is loaded, so a server can refuse before it spends a minute on loading.
"""

from domino_sglang.checkpoint.load import load_state_dict
from domino_sglang.checkpoint.problem import Problem
from domino_sglang.checkpoint.report import CheckpointReport, check_checkpoint, examine
from domino_sglang.checkpoint.safetensors_files import StoredTensor
from domino_sglang.checkpoint.target import (
    Comparison,
    check_against_target,
    compare_draft_tokens,
    compare_with_target,
    target_text_config,
)
from domino_sglang.checkpoint.tensors import ExpectedTensor, bare_name, expected_tensors

__all__ = [
    "CheckpointReport",
    "Comparison",
    "ExpectedTensor",
    "Problem",
    "StoredTensor",
    "bare_name",
    "check_against_target",
    "check_checkpoint",
    "compare_draft_tokens",
    "compare_with_target",
    "examine",
    "expected_tensors",
    "load_state_dict",
    "target_text_config",
]
