"""Load for any SGLang server: ``locust -f benchmarks/locustfile.py --host URL --tags chat`` (see README.md here)."""

from domino_sglang.bench.sweep.locust_users import ChatUser

__all__ = ["ChatUser"]
