"""`tidegate bench`: a load generator."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import click

from tidegate.cli.load import Load, Result, generate
from tidegate.cli.options import NewFile, address, print_table

PERCENTILES = (50, 90, 99, 99.9)


@click.command()
@click.option("--model", required=True, help="The model's name.")
@click.option("--sessions", type=click.IntRange(min=1), default=64, show_default=True, help="Sessions in all.")
@click.option(
    "--streams", type=click.IntRange(min=1), default=64, show_default=True, help="Streams they are spread on."
)
@click.option("--batch", type=click.IntRange(1, 16_384), default=1, show_default=True, help="Observations a message.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Observations a second in all (open loop).")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, show_default=True, help="Measured."
)
@click.option("--warmup", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds before that.")
@click.option("--json", "json_file", type=NewFile(), help="Write the result here.")
@address
def bench(
    model: str,
    sessions: int,
    streams: int,
    batch: int,
    rate: float | None,
    seconds: float,
    warmup: float,
    json_file: Path | None,
    address: str,
) -> None:
    """Load a running server and measure throughput and latency.

    Without --rate each stream sends its next message when the reply to the last one is there (closed loop). With
    --rate messages go out at their time whatever the replies do, and latency counts from the time a message was meant
    to go (corrected for coordinated omission).
    """
    if sessions < streams:
        raise click.UsageError(f"--sessions {sessions} cannot be spread on --streams {streams}; give more sessions")
    load = Load(address, model, sessions, streams, batch, rate, seconds, warmup)
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        result = runner.run(generate(load))
    print_result(load, result)
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(load, result), indent=2) + "\n", encoding="utf-8")
    if not result.observations:
        raise click.ClickException("no observation was answered with a prediction")


def fast_loop() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    loop: type[asyncio.AbstractEventLoop] = uvloop.Loop
    return loop


def print_result(load: Load, result: Result) -> None:
    """For people."""
    rate = result.observations / result.seconds
    rows = [
        ("observations a second", f"{rate:,.0f}"),
        ("messages a second", f"{result.messages / result.seconds:,.0f}"),
        *((f"latency p{p:g}", f"{result.percentile(p) * 1e3:.3f} ms") for p in PERCENTILES),
        ("slowest stream beside the mean", f"{result.fairness:.2f}"),
        *((f"errors {reason}", f"{count:,}") for reason, count in sorted(result.errors.items())),
    ]
    loop = "closed loop" if load.rate is None else f"open loop, {load.rate:g} observations a second"
    title = f"{load.sessions} sessions, {load.streams} streams, {load.batch} a message, {loop}"
    print_table(("what", "measured"), rows, title)


def to_json(load: Load, result: Result) -> dict[str, object]:
    """For programs. Latencies in seconds."""
    return {
        "load": load._asdict(),
        "seconds": result.seconds,
        "messages": result.messages,
        "observations": result.observations,
        "messages_per_second": result.messages / result.seconds,
        "observations_per_second": result.observations / result.seconds,
        "latency_seconds": {f"p{p:g}": result.percentile(p) for p in PERCENTILES},
        "slowest_stream_ratio": result.fairness,
        "errors": result.errors,
    }
