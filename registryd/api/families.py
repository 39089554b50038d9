"""What `/metrics` tells: each metric declared once, with where its numbers come from, which is asked when someone asks.

Nobody should import this before someone does: it brings in prometheus-client, which takes longer to load than we may
take to start.
"""

import contextlib
import itertools
import math
import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from registryd.api.context import REASONS, Context
from registryd.histogram import Histogram
from registryd.registry import Tally

_openmetrics, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_STATM, _DESCRIPTORS = Path("/proc/self/statm"), Path("/proc/self/fd")

#: The values of a metric's labels, and its number.
Sample = tuple[Sequence[str], float | Histogram]
Kind = Literal["gauge", "counter", "histogram"]


class Sight:
    """The registry as it is while the metrics are computed."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.registry = context.registry
        self.feed = context.registry.feed
        self.kept = self.feed.kept
        self.daemon = context.daemon
        self.vitals = context.daemon.vitals
        self.limits = context.reader.limits
        self.overload = context.overload
        self.tally: Tally = self.registry.tally()
        self.stalls, self.stalled_seconds = self.daemon.stalls()

    def build(self) -> Iterator[Sample]:
        """What it is made of."""
        daemon = self.daemon
        yield (daemon.version, platform.python_version(), self.vitals.http_kind, daemon.store_kind), 1

    def degraded(self) -> Iterator[Sample]:
        """Each reason, whether it is one now or not."""
        now = self.daemon.reasons()
        return (((reason,), reason in now) for reason in dict.fromkeys([*REASONS, *now]))

    def requests(self) -> Iterator[Sample]:
        """How many requests there were."""
        return (
            ((asked.method, asked.route, str(asked.status)), len(answers)) for asked, answers in self.context.traffic
        )

    def durations(self) -> Iterator[Sample]:
        """How long they took."""
        for asked, answers in self.context.traffic:
            if any(answers.durations.counts):
                yield (asked.method, asked.route, str(asked.status)), answers.durations

    def refused(self) -> Iterator[Sample]:
        """For want of a token, or of a right."""
        return (((reason,), self.context.access.refused[reason]) for reason in ("unauthorized", "forbidden"))

    def written(self) -> Iterator[Sample]:
        """How long the writes took, where there are any."""
        if self.vitals.writes is not None:
            yield (), self.vitals.writes

    def of_store(self, value: Callable[[], float]) -> Iterator[Sample]:
        """A number of a store that writes."""
        if self.vitals.writes is not None:
            yield (), value()

    def lag(self) -> Iterator[Sample]:
        """How late the beats came, where there are any."""
        if self.vitals.lag is not None:
            yield (), self.vitals.lag

    def memory(self, field: int) -> Iterator[Sample]:
        """A field of /proc/self/statm, in bytes; nothing, where the system has no such file."""
        with contextlib.suppress(OSError):
            yield (), int(_STATM.read_text().split()[field]) * _PAGE

    def descriptors(self) -> Iterator[Sample]:
        """How many are open. Linux says so from 6.2 on; before that they must be counted."""
        with contextlib.suppress(OSError):
            yield (), _DESCRIPTORS.stat().st_size or sum(1 for _ in _DESCRIPTORS.iterdir())


class Declared(NamedTuple):
    """A metric: its name, what it tells, where its numbers come from (or its one number), and its labels."""

    name: str
    kind: Kind
    help: str
    values: Callable[[Sight], "float | Iterable[Sample]"]
    labels: tuple[str, ...] = ()


_OF_REQUEST = ("method", "route", "status")

METRICS = (
    Declared(
        "registryd_build_info", "gauge", "What is running; always 1.", Sight.build,
        ("version", "python", "http", "store"),
    ),
    Declared(
        "registryd_degraded", "gauge", "Whether something needs a human, by the reasons of /status.", Sight.degraded,
        ("reason",),
    ),
    Declared("registryd_services", "gauge", "Services that have an instance.", lambda s: s.tally.services),
    Declared(
        "registryd_instances", "gauge", "Instances by their effective status.",
        lambda s: (((status,), count) for status, count in s.registry.statuses().items()), ("status",),
    ),
    Declared(
        "registryd_instances_limit", "gauge", "Most instances (--max-instances).", lambda s: s.limits.instances
    ),
    Declared(
        "registryd_instances_restored", "gauge", "Instances from before a restart, without a heartbeat since.",
        lambda s: s.tally.restored,
    ),
    Declared(
        "registryd_instances_suspect", "gauge", "Instances that are listed although they are not heard any more.",
        lambda s: s.registry.suspects(),
    ),
    Declared(
        "registryd_metadata_bytes", "gauge", "Memory for metadata, tags and long URLs of all instances.",
        lambda s: s.registry.bulk,
    ),
    Declared(
        "registryd_metadata_limit_bytes", "gauge", "Most of that (--max-metadata-bytes).",
        lambda s: s.limits.metadata_bytes,
    ),
    Declared(
        "registryd_changes_total", "counter", "Changes that a reader could see.",
        lambda s: (((kind,), count) for kind, count in s.feed.published.items()), ("kind",),
    ),
    Declared(
        "registryd_index", "gauge", "Number of the last change (Registry-Index).", lambda s: s.feed.index
    ),
    Declared("registryd_leases_renewed_total", "counter", "Heartbeats that were heard.", lambda s: s.tally.renewed),
    Declared("registryd_leases_expired_total", "counter", "Leases that ended.", lambda s: s.tally.expired),
    Declared(
        "registryd_stalls_total", "counter", "Times at which heartbeats could not be heard.", lambda s: s.stalls
    ),
    Declared(
        "registryd_stalled_seconds_total", "counter", "Time for which heartbeats could not be heard: no lease lost it.",
        lambda s: s.stalled_seconds,
    ),
    Declared(
        "registryd_http_requests_total", "counter",
        "Requests that were answered, by path as in /openapi.json (none: it came to no path).", Sight.requests,
        _OF_REQUEST,
    ),
    Declared(
        "registryd_http_request_duration_seconds", "histogram",
        "Time from a request until its answer, without the time for which its reader wanted to wait. What the front "
        "answers from its table is timed now and then, and stands for what came since.", Sight.durations, _OF_REQUEST,
    ),
    Declared(
        "registryd_http_requests_under_way", "gauge", "Requests that are not answered yet, watchers included.",
        lambda s: len(s.context.under_way),
    ),
    Declared("registryd_http_connections", "gauge", "Connections.", lambda s: s.vitals.connections()),
    Declared(
        "registryd_http_connections_limit", "gauge", "Most connections (--max-connections).",
        lambda s: s.limits.connections,
    ),
    Declared(
        "registryd_http_connections_refused_total", "counter", "Connections refused for want of room.",
        lambda s: s.daemon.connections_refused(),
    ),
    Declared(
        "registryd_http_connections_crowded_out_total", "counter",
        "Connections that had to go for another of their address (--max-connections-per-address).",
        lambda s: s.overload.crowd.crowded_out,
    ),
    Declared(
        "registryd_http_requests_limited_total", "counter",
        "Requests refused (429) as their address made too many (--max-requests-per-address).",
        lambda s: s.overload.rates.refused,
    ),
    Declared(
        "registryd_http_waiting_bytes", "gauge", "Bytes that wait for clients who do not read, or are slow to send.",
        lambda s: s.overload.waiting.bytes,
    ),
    Declared(
        "registryd_http_waiting_limit_bytes", "gauge", "Most of that (--max-waiting-bytes).",
        lambda s: s.overload.waiting.most,
    ),
    Declared(
        "registryd_http_slow_clients_cut_off_total", "counter", "Clients cut off as too many bytes waited for them.",
        lambda s: s.overload.waiting.let_go,
    ),
    Declared(
        "registryd_access_tokens", "gauge", "Tokens in the auth file; 0 without access control.",
        lambda s: 0 if s.context.access.is_open else len(s.context.access),
    ),
    Declared(
        "registryd_access_refused_total", "counter", "Requests refused for who asked.", Sight.refused, ("reason",)
    ),
    Declared("registryd_watchers", "gauge", "Watchers, and readers who wait.", lambda s: s.tally.watchers),
    Declared("registryd_watchers_limit", "gauge", "Most of them (--max-watchers).", lambda s: s.limits.watchers),
    Declared(
        "registryd_watchers_cut_off_total", "counter", "Watchers cut off as they did not read, or were too far behind.",
        lambda s: s.vitals.watchers_cut_off(),
    ),
    Declared("registryd_feed_changes", "gauge", "Changes kept for watchers.", lambda s: s.kept.changes),
    Declared("registryd_feed_changes_limit", "gauge", "Most changes that are kept.", lambda s: s.kept.most_changes),
    Declared("registryd_feed_bytes", "gauge", "Metadata and tags in the changes that are kept.", lambda s: s.kept.bulk),
    Declared("registryd_feed_limit_bytes", "gauge", "Most of that.", lambda s: s.kept.most_bulk),
    Declared(
        "registryd_store_write_duration_seconds", "histogram",
        "Time of each write to the disk, those that failed included (with --state-dir).", Sight.written,
    ),
    Declared(
        "registryd_store_write_failures_total", "counter", "Writes to the disk that failed (with --state-dir).",
        lambda s: s.of_store(s.vitals.failed_writes),
    ),
    Declared(
        "registryd_store_size_bytes", "gauge", "Size of the state on the disk (with --state-dir).",
        lambda s: s.of_store(s.vitals.stored_bytes),
    ),
    Declared(
        "registryd_loop_lag_seconds", "histogram",
        "How late the event loop came round, looked at four times a second.", Sight.lag,
    ),
    Declared(
        "registryd_log_entries_lost_total", "counter", "Entries of the log that could not be written.",
        lambda s: s.vitals.entries_lost(),
    ),
    Declared(
        "process_start_time_seconds", "gauge", "Start, in seconds since 1970.", lambda s: s.daemon.started_wall
    ),
    Declared("process_cpu_seconds_total", "counter", "Time of the processor.", lambda _: time.process_time()),
    Declared("process_resident_memory_bytes", "gauge", "Resident memory.", lambda s: s.memory(1)),
    Declared("process_virtual_memory_bytes", "gauge", "Virtual memory.", lambda s: s.memory(0)),
    Declared("process_open_fds", "gauge", "Open file descriptors.", Sight.descriptors),
    Declared(
        "process_max_fds", "gauge", "Most open file descriptors.",
        lambda _: resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    ),
)  # fmt: skip


class Families(Collector):
    """The metrics of one registry."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterator[Metric]:
        """Computes them."""
        sight = Sight(self._context)
        for metric in METRICS:
            value = metric.values(sight)
            samples = [((), value)] if isinstance(value, int | float) else list(value)
            if samples:
                yield _family(metric, samples)


def _family(metric: Declared, samples: Sequence[Sample]) -> Metric:
    if metric.kind == "histogram":
        histograms = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, histogram in samples:
            assert isinstance(histogram, Histogram)
            histograms.add_metric(labels, _buckets(histogram), histogram.seconds)
        return histograms
    kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, number in samples:
        assert not isinstance(number, Histogram)
        family.add_metric(labels, number)
    return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Each bound with how many were within it."""
    names = map(floatToGoString, (*histogram.bounds, math.inf))
    return list(zip(names, itertools.accumulate(histogram.counts), strict=True))


class Exposition:
    """The metrics as text."""

    def __init__(self, context: Context) -> None:
        # One of our own: in the library's there would be what it thinks of, too.
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(Families(context))

    def plain(self) -> bytes:
        """In Prometheus's text format 0.0.4."""
        return generate_latest(self._registry)

    def openmetrics(self) -> bytes:
        """In OpenMetrics 1.0."""
        return _openmetrics(self._registry)
