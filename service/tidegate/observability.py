"""Which of the server's numbers become metrics. Names follow Prometheus: base units, `_total`, few labels."""

from __future__ import annotations

import platform
from collections.abc import Callable

from tidegate.durability import Durability
from tidegate.engine.loop import EngineHost
from tidegate.engine.sessions.by_name import Sessions
from tidegate.engine.sessions.catalog import Catalog
from tidegate.engine.step.device import device_memory_used, torch_version
from tidegate.metrics import Metrics
from tidegate.native import library
from tidegate.wire.frontend import FrontEnd
from tidegate.wire.transport import takes_up


def register(
    metrics: Metrics,
    version: str,
    device: str,
    catalog: Catalog,
    sessions: Sessions,
    host: EngineHost,
    front: FrontEnd,
) -> None:
    """Adds the gauges, counters and infos that are read when scraped."""

    def by_version(read: Callable[[int], float]) -> dict[tuple[str, ...], float]:
        return {(lane.model, lane.version): read(number) for number, lane in catalog.lanes.items()}

    inbox, limits = host.engine.inbox, catalog.limits
    metrics.gauge(
        "tidegate_sessions_resident",
        "Sessions whose state is in memory.",
        lambda: by_version(lambda number: catalog.lanes[number].sessions),
        ("model", "version"),
    )
    metrics.gauge("tidegate_sessions_resident_max", "Sessions that may be, of all models.", lambda: limits.sessions_max)
    metrics.counter(
        "tidegate_sessions_opened",
        "Sessions opened or forked.",
        lambda: {(model,): count for model, count in sessions.opened.items()},
        ("model",),
    )
    metrics.counter(
        "tidegate_sessions_closed", "Sessions ended, by reason.", lambda: sessions.closed, ("model", "reason")
    )
    metrics.gauge("tidegate_inbox_rows", "Rows queued and not yet answered.", lambda: inbox.rows)
    metrics.gauge("tidegate_inbox_rows_max", "Rows at which streams are no longer read.", lambda: inbox.rows_max)
    metrics.gauge("tidegate_outbox_messages", "Messages read and not yet answered.", lambda: front.answers_waiting)
    metrics.gauge("tidegate_state_bytes", "Bytes of session columns in use.", lambda: sessions.bytes_used)
    metrics.gauge("tidegate_state_bytes_max", "Bytes that they may use.", lambda: catalog.state_bytes_max)
    forecaster = host.engine.forecaster
    metrics.gauge("tidegate_forecasts_waiting", "Forecast calls in progress.", lambda: len(forecaster))
    metrics.counter("tidegate_forecast_steps", "Steps forecast, sample paths included.", lambda: forecaster.steps)
    histories = host.engine.histories
    metrics.counter("tidegate_history_steps", "Steps taken from histories.", lambda: histories.steps)
    metrics.gauge("tidegate_histories_waiting", "Histories in progress.", lambda: len(histories))
    metrics.counter(
        "tidegate_messages_refused",
        "Messages of streams that were refused as a whole, by reason; their rows are in no other count.",
        lambda: {(reason,): count for reason, count in front.refused.items()},
        ("reason",),
    )
    metrics.gauge("tidegate_streams_open", "Open prediction streams.", lambda: front.streams)
    metrics.gauge("tidegate_streams_open_max", "Streams at which more are refused.", lambda: limits.streams_max)
    metrics.gauge("tidegate_unary_calls_open", "Unary predictions in progress.", lambda: front.unary)
    metrics.gauge(
        "tidegate_unary_calls_open_max", "Unary predictions at which more are refused.", lambda: limits.unary_calls_max
    )
    metrics.gauge(
        "tidegate_packages_refused",
        "Versions that the last reload refused; one that is loaded serves on from memory, but not after a restart.",
        lambda: {(name,): float(len(entry.refused)) for name, entry in catalog.models.items()},
        ("model",),
    )
    metrics.counter(
        "tidegate_reloads_failed", "Reloads that changed nothing, for want of models.", lambda: metrics.reloads_failed
    )
    metrics.gauge(
        "tidegate_unary_unread_bytes",
        "Bytes of answers to unary calls that clients have not taken; 0 with grpc.aio's server.",
        lambda: front.unread_bytes,
    )
    metrics.gauge(
        "tidegate_unary_unread_bytes_max", "Bytes at which unary calls are refused.", lambda: limits.unary_bytes_max
    )
    if device != "cpu":
        metrics.gauge("tidegate_device_memory_bytes", "Memory in use on the device.", device_memory_used)
    build = {
        "version": version,
        "python": platform.python_version(),
        "torch": torch_version(),
        "device": device,
        "native": "no" if library() is None else "yes",
        "grpc": "own" if takes_up() else "aio",
    }
    metrics.info("tidegate_build", "What is running.", lambda: [build])
    metrics.info(
        "tidegate_model",
        "Loaded model versions.",
        lambda: [
            {"model": lane.model, "version": lane.version, "fingerprint": lane.package.fingerprint[:12]}
            for lane in catalog.lanes.values()
        ],
    )


def register_durability(metrics: Metrics, durability: Durability) -> None:
    """The same for checkpoints, where there is a store."""
    metrics.gauge(
        "tidegate_checkpoint_lag_seconds",
        "Age of the oldest change that may not be saved; 0 when all is.",
        lambda: durability.lag_seconds,
    )
    departures = durability.departures
    metrics.counter(
        "tidegate_sessions_evicted",
        "Sessions that left memory for the store (room, idle, moved, drain), or were lost to another replica.",
        lambda: departures.evicted,
        ("model", "reason"),
    )
    metrics.gauge(
        "tidegate_rows_parked", "Rows that wait for their session to be fetched.", lambda: durability.rows_parked
    )
    metrics.gauge(
        "tidegate_rows_parked_max", "Rows at which streams are no longer read.", lambda: durability.rows_parked_max
    )
    metrics.counter("tidegate_sessions_lost", "Sessions that another replica took.", lambda: durability.lost)
    metrics.counter(
        "tidegate_sessions_moved", "Sessions asked for in vain: SESSION_MOVED.", lambda: durability.arrivals.moved
    )
    metrics.counter("tidegate_checkpoints_saved", "Checkpoints written.", lambda: durability.saved)
    metrics.counter(
        "tidegate_checkpoints_damaged",
        "Checkpoints read whose checksum was wrong; one that is asked for again counts again.",
        lambda: durability.store.damaged,
    )
    metrics.counter("tidegate_checkpoint_failures", "Passes that the store did not take.", lambda: durability.failures)
    metrics.gauge(
        "tidegate_lease_age_seconds",
        "Since the last life sign of this replica that the store answered; 0 where none is due.",
        lambda: durability.lease_age_seconds,
    )
    metrics.counter(
        "tidegate_lease_failures", "Life signs that the store did not answer.", lambda: durability.lease.failures
    )
    metrics.counter("tidegate_sessions_restored", "Sessions made of checkpoints.", lambda: durability.arrivals.restored)
