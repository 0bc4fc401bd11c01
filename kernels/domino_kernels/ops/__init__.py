"""One Triton op per file, each beside its plain-PyTorch reference."""
