"""A barrier for every program of a cooperative launch. Source: ``x_grid_barrier`` of PyTorch's Inductor."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def grid_barrier(counter_ptr, target):
    """Wait until ``counter_ptr`` (int32) has been reached ``target`` times; returns when all programs have arrived.

    The counter only grows during a launch and is zeroed before the next one, so an aborted launch leaves no trace.
    All programs must be resident: launch with ``launch_cooperative_grid=True``. Data exchanged across the barrier is
    read with ``.cg`` (L2), where the other programs' stores are.
    """
    # The release below covers only what this thread has seen: every warp's stores come first.
    tl.debug_barrier()
    arrived = tl.atomic_add(counter_ptr, 1, sem="acq_rel") + 1
    while arrived < target:
        arrived = tl.atomic_add(counter_ptr, 0, sem="acquire")
    tl.debug_barrier()
