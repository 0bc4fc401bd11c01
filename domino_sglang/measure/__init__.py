"""What bench, demo and training share: provenance, a server process, evaluation prompts, streams."""
