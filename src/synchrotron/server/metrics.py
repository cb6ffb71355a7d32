"""What can be measured of a server, for Prometheus. No user is named."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from synchrotron.core.messages import Ok, SyncAnswer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """The counters of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "synchrotron_requests", "Requests by their route and status.",
            ["route", "status"], registry=self.registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "synchrotron_request_seconds", "How long requests take; streams until their end.",
            ["route"], buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.answers = Counter(
            "synchrotron_answers", "Answers of exchanges by their kind.",
            ["kind"], registry=self.registry,
        )  # fmt: skip
        self.actions = Counter(
            "synchrotron_actions_accepted", "Actions that were accepted, retries included.",
            registry=self.registry,
        )  # fmt: skip
        self.corrections = Counter(
            "synchrotron_corrections", "Corrections by what became of them.",
            ["outcome"], registry=self.registry,
        )  # fmt: skip
        self.bytes = Counter(
            "synchrotron_body_bytes", "Bytes of bodies as they travel.",
            ["direction"], registry=self.registry,
        )  # fmt: skip
        self.streams = Gauge(
            "synchrotron_event_streams", "Event streams that are open.", registry=self.registry
        )

    def answered(self, answer: SyncAnswer) -> None:
        self.answers.labels(kind_of(answer)).inc()
        if isinstance(answer, Ok):
            self.actions.inc(len(answer.accepted))
            denied = sum(corrected.seq is None for corrected in answer.corrected)
            self.corrections.labels("denied").inc(denied)
            self.corrections.labels("stored").inc(len(answer.corrected) - denied)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def kind_of(answer: SyncAnswer) -> str:
    """The `kind` that an answer travels with."""
    return str(answer.__struct_config__.tag)
