"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one guard; `gauge` adds values that are read when asked for."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "guard_requests", "Requests, by route and status.", ["route", "code"], registry=self.registry
        )
        self.refused = Counter("guard_refused", "Requests refused, by reason.", ["reason"], registry=self.registry)
        self.images = Counter("guard_images", "Images, by decision.", ["decision"], registry=self.registry)
        self.seconds = Histogram(
            "guard_request_seconds",
            "From the first byte to the answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "guard_batch_images", "Images that went to the model together.", buckets=BATCHES, registry=self.registry
        )
        self.alerts = Counter(
            "guard_alerts", "Alerts raised by this replica, by kind.", ["kind"], registry=self.registry
        )
        self.reloads = Counter("guard_reloads", "Reloads, by outcome.", ["outcome"], registry=self.registry)

        self.reaudits = Counter(
            "guard_reaudits", "Re-audits of the served stack, by outcome.", ["outcome"], registry=self.registry
        )

    def gauge(self, name: str, said: str, read: Callable[[], float]) -> None:
        """A value that is asked for when Prometheus comes."""
        Gauge(f"guard_{name}", said, registry=self.registry).set_function(read)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self.registry)
