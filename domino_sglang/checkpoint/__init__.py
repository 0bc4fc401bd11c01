"""Is this checkpoint a drafter that can be served, and does it fit the target? Answered from headers, in milliseconds.

No weight is loaded, so a server can refuse before it spends a minute on loading.
"""

from domino_sglang.checkpoint.hub import local_folder
from domino_sglang.checkpoint.load import load_state_dict
from domino_sglang.checkpoint.problem import Problem, refuse
from domino_sglang.checkpoint.report import CheckpointReport, check_checkpoint, examine
from domino_sglang.checkpoint.safetensors_files import StoredTensor
from domino_sglang.checkpoint.target import (
    Comparison,
    check_against_target,
    compare_context,
    compare_draft_tokens,
    compare_with_target,
    context_length,
    target_text_config,
)
from domino_sglang.checkpoint.tensors import GRU_BIASES, ExpectedTensor, bare_name, expected_tensors

__all__ = [
    "GRU_BIASES",
    "CheckpointReport",
    "Comparison",
    "ExpectedTensor",
    "Problem",
    "StoredTensor",
    "bare_name",
    "check_against_target",
    "check_checkpoint",
    "compare_context",
    "compare_draft_tokens",
    "compare_with_target",
    "context_length",
    "examine",
    "expected_tensors",
    "load_state_dict",
    "local_folder",
    "refuse",
    "target_text_config",
]
