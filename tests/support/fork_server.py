"""SGLang imported once and forked for every question: seconds saved for each server that a test would start.

``python -m tests.support.fork_server`` reads one JSON object a line (``{"task": name, ...}``), answers each in a child
forked after the imports, and writes one JSON object a line. Nothing is resolved, published or computed before the fork,
so every child is what a fresh process would be.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

PREFIX = "ANSWER "
FLAGS = ("--dtype", "float32", "--max-total-tokens", "512", "--max-running-requests", "4", "--skip-tokenizer-init")


class ForkServer:
    """The other end of the pipe, for tests."""

    def __init__(self, log: Path, **environment: str):
        self.log = log
        self._stream = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stream,
            cwd=ROOT,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | environment,
        )

    def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
        """The child's answer: ``{"value": ...}``, or ``{"error": type, "bases": [...], "message": text}``."""
        self.process.stdin.write(json.dumps({"task": task, **arguments}) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(PREFIX):
                return json.loads(line.removeprefix(PREFIX))
        raise RuntimeError(f"the fork server ended: {self.log.read_text()[-3000:]}")

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)
        self._stream.close()


def resolve(argv: list[str]) -> dict[str, Any]:
    """What ``launch_server`` does before it starts a process; the settled arguments that concern DOMINO."""
    args = _server_args(argv)
    from sglang.srt.arg_groups.overrides import resolving_view

    view = resolving_view(args)
    return {name: getattr(view, name) for name in SETTLED}


def dtypes(argv: list[str]) -> list[str]:
    """The dtypes that SGLang's workers load target and drafter in."""
    args = _server_args(argv)
    from sglang.srt.configs.model_config import ModelConfig

    drafter = {"model_path": args.speculative_draft_model_path, "is_draft_model": True}
    return [str(ModelConfig.from_server_args(args, **model).dtype) for model in ({}, drafter)]


def generate(
    argv: list[str],
    prompts: list[list[int]],
    max_new_tokens: int,
    out: str,
    updates: list[tuple[str, str] | None] | None = None,
) -> dict[str, Any]:
    """Run prompts through a real scheduler, one after the other, and save every block drafted on the way.

    ``out`` gets a list, one entry a prompt: output ids and, for each step, position, bonus token, proposals, backbone
    rows and base logits. ``updates`` names the new weights, if any, that come before each prompt; they are answered in
    ``updates``: success and message.
    """
    import torch

    torch.set_num_threads(1)
    scheduler = make_scheduler(_server_args([*FLAGS, *argv]))
    worker = scheduler.draft_worker
    blocks: list[dict[str, Any]] = []
    propose = worker.proposer

    def watch(hidden_states, input_ids, positions):
        propose(hidden_states, input_ids, positions)
        drafted = propose.block(1)
        blocks.append(
            {
                "position": int(positions[0]),
                "bonus": int(input_ids[0]),
                "tokens": drafted.draft.tokens[0].clone(),
                "hidden": hidden_states.clone(),
                "base_logits": drafted.base_logits[0].clone(),
            }
        )

    worker.draft_model.propose = watch
    results, answers = [], []
    for number, prompt in enumerate(prompts):
        if updates and updates[number]:
            _step(scheduler)  # SGLang drops the batch of a finished request at the next step
            answers.append(update_weights(scheduler, *updates[number]))
        sampling = {"temperature": 0, "max_new_tokens": max_new_tokens, "ignore_eos": True}
        request = enqueue(scheduler, f"request-{number}", prompt, sampling)
        while not request.finished():
            _step(scheduler)
        results.append({"prompt": prompt, "output": list(request.output_ids_through_stop), "blocks": blocks[:]})
        blocks.clear()
    torch.save(results, out)
    return {"blocks": sum(len(result["blocks"]) for result in results), "updates": answers}


def together(
    argv: list[str], requests: list[Any], retract_every: int | None = None, as_on_a_gpu: bool = False
) -> dict[str, Any]:
    """:func:`tests.support.scheduler_run.together` on a scheduler with these arguments."""
    from tests.support.scheduler_run import together

    if as_on_a_gpu:
        from tests.support import attention_kernels, gpu_paths

        gpu_paths.serve_as_on_a_gpu()
        if set(attention_kernels.BACKENDS) & set(argv):
            attention_kernels.stand_in()
    return together(_server_args([*FLAGS, *argv]), requests, retract_every)


def _server_args(argv: list[str]):
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import prepare_server_args

    load_plugins()
    args = prepare_server_args(argv)
    args.resolve_once()
    args.check_server_args()
    return args


def make_scheduler(args):
    """A scheduler for resolved arguments, in this process; one a process."""
    from sglang.srt.managers.scheduler import Scheduler, SpawnRanks, publish
    from sglang.srt.server_args import PortArgs

    publish(args, role="scheduler", ranks=SpawnRanks(world_rank=0, dp_rank=None, gpu_id=0))
    return Scheduler(args, PortArgs.init_new(args))


def enqueue(
    scheduler,
    rid: str,
    prompt: list[int],
    sampling: dict[str, Any],
    lora_id: str | None = None,
    processor: str | None = None,
):
    """Hand a scheduler one request with these ``SamplingParams``; returns its ``Req``."""
    from array import array

    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.sampling.sampling_params import SamplingParams

    params = SamplingParams(**sampling)
    params.normalize(None)
    scheduler.handle_generate_request(
        TokenizedGenerateReqInput(
            rid=rid,
            input_text="",
            input_ids=array("q", prompt),
            input_embeds=None,
            mm_inputs=None,
            token_type_ids=None,
            sampling_params=params,
            return_logprob=False,
            logprob_start_len=-1,
            top_logprobs_num=0,
            token_ids_logprob=None,
            stream=False,
            lora_id=lora_id,
            custom_logit_processor=processor,
        )
    )
    return scheduler.waiting_queue[-1]


def update_weights(scheduler, source: str, folder: str) -> tuple[bool, str]:
    """Give a scheduler a folder's weights, from ``disk`` or tensor by ``tensor``; success and message."""
    from safetensors.torch import load_file
    from sglang.srt.managers import io_struct

    updater = scheduler.weight_updater
    if source == "disk":
        request = io_struct.UpdateWeightFromDiskReqInput(model_path=folder, load_format="auto")
        answer = updater.update_weights_from_disk(request)
        return answer.success, answer.message
    tensors = pickle.dumps(list(load_file(Path(folder) / "model.safetensors").items()))
    updater.begin_weight_update(io_struct.BeginWeightUpdateReqInput())
    answer = updater.update_weights_from_tensor(
        io_struct.UpdateWeightsFromTensorReqInput(serialized_named_tensors=[tensors])
    )
    updater.end_weight_update(io_struct.EndWeightUpdateReqInput())
    return answer.success, answer.message


def _step(scheduler) -> None:
    # As Scheduler.event_loop_normal.
    plan = scheduler.get_next_batch_to_run(running_batch=scheduler.running_batch, last_batch=scheduler.last_batch)
    scheduler.running_batch, batch = plan.running_batch, plan.batch_to_run
    if batch:
        scheduler.process_batch_result(batch, scheduler.run_batch(batch))
    scheduler.last_batch = batch


SETTLED = (
    "speculative_num_steps",
    "speculative_eagle_topk",
    "speculative_num_draft_tokens",
    "speculative_draft_model_quantization",
    "speculative_draft_attention_backend",
    "speculative_use_block_verification",
    "speculative_draft_window_size",
    "speculative_adaptive",
    "max_running_requests",
    "disable_overlap_schedule",
    "attention_backend",
)
TASKS = {"resolve": resolve, "dtypes": dtypes, "generate": generate, "together": together}


def _answer(task: str, arguments: dict[str, Any], reply: Any) -> None:
    try:
        answer = {"value": TASKS[task](**arguments)}
    except BaseException as error:
        traceback.print_exc()
        bases = [base.__name__ for base in type(error).__mro__]
        answer = {"error": type(error).__name__, "bases": bases, "message": str(error)}
    reply.write(PREFIX + json.dumps(answer) + "\n")
    reply.flush()


def main() -> None:
    # Everything a child needs, imported and nothing more; the plugins are loaded first, as everywhere in SGLang.
    from sglang.srt.plugins import load_plugins

    load_plugins()

    import domino_sglang.serving.worker  # noqa: F401

    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.support.interpreted_states import serve_states_on_cpu

        serve_states_on_cpu()
    reply = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            _answer(arguments.pop("task"), arguments, reply)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            reply.write(PREFIX + json.dumps({"error": "Died", "bases": [], "message": f"wait status {status}"}) + "\n")
            reply.flush()


if __name__ == "__main__":
    main()
