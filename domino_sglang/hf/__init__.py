"""The Domino drafter under Transformers: a ``PreTrainedModel`` with lossless ``spec_generate``.

Works with any causal LM that shares the tokenizer; needs no remote code. Nothing here imports sglang.
"""

from domino_sglang.hf.configuration import DominoDraftConfig
from domino_sglang.hf.generation import SpecOutput, stop_ids
from domino_sglang.hf.modeling import DominoDraftModel

__all__ = ["DominoDraftConfig", "DominoDraftModel", "SpecOutput", "stop_ids"]
