"""The training loop: anchored blocks, loss, schedules, resumable state."""
