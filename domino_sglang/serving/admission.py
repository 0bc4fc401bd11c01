"""Whether a server can run DOMINO with the arguments it was given, settled before any weight is loaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sglang.srt.arg_groups.choices import DRAFT_ATTENTION_BACKEND_CHOICES
from sglang.srt.arg_groups.overrides import resolving_view
from sglang.srt.configs.hybrid_arch import mambaish_config
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.platforms import current_platform
from sglang.srt.utils import get_device_memory_capacity

from domino_sglang.checkpoint import check_against_target, compare_draft_tokens
from domino_sglang.core.config import CheckpointError, DominoConfig
from domino_sglang.core.devices import runs_triton
from domino_sglang.serving.model_configs import longer_contexts_allowed, read_drafter, read_target

logger = logging.getLogger(__name__)

# The default of --max-running-requests: as many as the logits of one block each take this share of the device's memory.
LOGITS_SHARE = 0.06
FEWEST_RUNNING, MOST_RUNNING = 48, 256  # SGLang's own default for speculative decoding, and what DOMINO is made for


@dataclass(frozen=True)
class Admission:
    """The settled arguments.

    Attributes:
        num_draft_tokens: block size in force, the bonus token included.
        draft_attention_backend: one of SGLang's draft attention backends.
        dtype: name of the dtype of target and drafter; SGLang would read ``auto`` in each checkpoint for itself.
        draft_quantization: what the user asked for the drafter, else None, its checkpoint's own; SGLang would take the
            target's ``--quantization``, and read int8 weights, say, where there are none.
        max_running_requests: used when the user named none.
    """

    num_draft_tokens: int
    draft_attention_backend: str
    dtype: str
    draft_quantization: str | None
    max_running_requests: int


def admit(server_args) -> Admission:
    """Check topology, drafter and target, and settle DOMINO's arguments.

    Args:
        server_args: anything with SGLang's server arguments as attributes.

    Raises:
        ValueError: (``CheckpointError`` when it is about the drafter) one line: value, expectation, fix.
    """
    _check_topology(server_args)
    drafter = read_drafter(server_args)
    target = read_target(server_args)
    context_length = None if longer_contexts_allowed() else target.context_len
    check_against_target(drafter, target.hf_config, server_args.model_path, context_length)
    _check_layers(server_args, target)
    for warning in drafter.warnings:
        logger.warning(warning)
    num_draft_tokens = _num_draft_tokens(drafter.config, server_args)
    return Admission(
        num_draft_tokens=num_draft_tokens,
        draft_attention_backend=_draft_attention_backend(server_args),
        dtype=str(target.dtype).removeprefix("torch."),
        draft_quantization=_draft_quantization(server_args),
        max_running_requests=running_requests(
            num_draft_tokens, drafter.config.vocab_size, get_device_memory_capacity(str(server_args.device))
        ),
    )


def running_requests(num_draft_tokens: int, vocab_size: int, memory_mib: float | None) -> int:
    """How many requests are decoded at once where the user does not say; ``memory_mib`` None is unknown."""
    if memory_mib is None:
        return FEWEST_RUNNING
    # The target's logits in float32, and the drafter's base logits in 2 bytes or 4.
    of_one = num_draft_tokens * vocab_size * 8
    return min(MOST_RUNNING, max(FEWEST_RUNNING, int(LOGITS_SHARE * memory_mib * 2**20 / of_one)))


def _check_topology(args) -> None:
    device = str(args.device)
    if not (device.startswith("cuda") or current_platform.is_out_of_tree()):
        raise ValueError(
            f"--device is {device!r}, and DOMINO serves on cuda, or on a CPU without accelerator; drop --device"
        )
    if args.model_impl not in ("auto", "sglang"):
        raise ValueError(
            f"--model-impl is {args.model_impl!r}, and DOMINO reads hidden states of SGLang's own models; drop it"
        )
    if args.pp_size != 1:
        raise ValueError(
            f"--pp-size is {args.pp_size}, and DOMINO needs 1: the drafter reads hidden states of the whole target; "
            "use --tp-size instead"
        )
    # SGLang has turned --enable-dp-attention into this by now.
    if args.attn_dp_size != 1:
        raise ValueError(
            f"--attn-dp-size is {args.attn_dp_size} (--enable-dp-attention), and DOMINO needs 1: the head's vocabulary "
            "shards would follow ranks that may be idle; use --tp-size, or replicas behind SGLang's router"
        )
    if args.attn_cp_size != 1:
        raise ValueError(f"--attn-cp-size is {args.attn_cp_size}, and DOMINO needs 1; use --tp-size instead")
    if args.dcp_size != 1:
        raise ValueError(f"--dcp-size is {args.dcp_size}, and DOMINO needs 1; use --tp-size instead")
    _check_host_pools(args)
    if args.grammar_backend == "outlines":
        raise ValueError(
            "--grammar-backend is 'outlines', and DOMINO needs one that can take tokens back, as a block is judged "
            "ahead: 'xgrammar' or 'llguidance'; drop the flag or pass one of them"
        )
    for name in ("speculative_num_steps", "speculative_eagle_topk"):
        value = getattr(args, name)
        if value not in (None, 1):
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} is {value}, and DOMINO has none; drop it and use --speculative-num-draft-tokens")


def _check_host_pools(args) -> None:
    """SGLang copies KV between a device and its host with CUDA streams; without a GPU the KV cache is on the host."""
    if runs_triton(args.device):
        return
    for name, off in (
        ("enable_hierarchical_cache", False),
        ("disaggregation_decode_enable_offload_kvcache", False),
        ("disaggregation_decode_retraction_backup", "cpu_tensor"),
    ):
        value = getattr(args, name)
        if value in (True, "host_pool"):
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} is {value}, and without a GPU DOMINO needs {off}: the KV cache is host memory already; drop it"
            )


def _check_layers(args, target: ModelConfig) -> None:
    """What keeps a state from token to token runs in SGLang's Triton kernels."""
    if not runs_triton(args.device) and mambaish_config(target) is not None:
        raise ValueError(
            f"--model-path is {args.model_path!r}, a {target.hf_config.model_type} with recurrent layers, and on a CPU "
            "DOMINO serves attention alone; serve it on a GPU"
        )


def _draft_quantization(args) -> str | None:
    # SGLang has put the target's into the field by now, and has noted whether the user had filled it.
    asked = resolving_view(args)._speculative_draft_quantization_explicitly_set
    return args.speculative_draft_model_quantization if asked else None


def _num_draft_tokens(config: DominoConfig, args) -> int:
    asked = {
        flag: value
        for flag, value in (
            ("--speculative-num-draft-tokens", args.speculative_num_draft_tokens),
            ("--speculative-dflash-block-size", args.speculative_dflash_block_size),
        )
        if value is not None
    }
    if len(set(asked.values())) > 1:
        raise ValueError(f"{' and '.join(f'{f} {v}' for f, v in asked.items())} differ; pass one of them")
    for flag, value in asked.items():
        if problem := compare_draft_tokens(config, value, flag).problem:
            raise CheckpointError(str(problem))
        return value
    return config.block_size


def _draft_attention_backend(args) -> str:
    if current_platform.is_out_of_tree():
        return _out_of_tree_backend(args)
    backend = args.speculative_draft_attention_backend
    if backend is not None:
        if backend not in DRAFT_ATTENTION_BACKEND_CHOICES or backend == "trtllm_mha":
            choices = [name for name in DRAFT_ATTENTION_BACKEND_CHOICES if name != "trtllm_mha"]
            raise ValueError(
                f"--speculative-draft-attention-backend is {backend!r}, and a drafter whose block attends both ways "
                f"needs one of {choices}"
            )
        return backend
    target = args.prefill_attention_backend or args.attention_backend
    drafts = ("flashinfer", "fa3", "fa4", "triton")
    return target if target in drafts and target in DRAFT_ATTENTION_BACKEND_CHOICES else "flashinfer"


def _out_of_tree_backend(args) -> str:
    """The platform says what can draft, and nothing else is known to verify there."""
    name = current_platform.device_name
    default = current_platform.get_default_speculative_draft_attention_backend("DOMINO")

    def supported(backend: str | None) -> bool:
        return backend is None or current_platform.supports_speculative_draft_attention_backend("DOMINO", backend)

    backend = args.speculative_draft_attention_backend
    if not supported(backend):
        raise ValueError(
            f"--speculative-draft-attention-backend is {backend!r}, and on {name} DOMINO drafts with {default!r}; "
            "drop the flag"
        )
    for field in ("attention_backend", "prefill_attention_backend", "decode_attention_backend"):
        value = getattr(args, field)
        if not supported(value):
            raise ValueError(
                f"--{field.replace('_', '-')} is {value!r}, and on {name} DOMINO verifies with {default!r}; "
                "drop the flag"
            )
    return backend or default
