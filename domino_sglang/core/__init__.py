"""The method in plain PyTorch: configuration, head, random numbers, acceptance. Never imports SGLang."""
