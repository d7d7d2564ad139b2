"""The client: sync and async, light, typed. Imports nothing of the server but generated stubs and errors."""

from tidegate.client import forks  # noqa: F401 - first: it imports gRPC

# isort: split
from tidegate.client.aio import AsyncClient
from tidegate.client.batches import AsyncBatches
from tidegate.client.failures import RowError
from tidegate.client.forecasts import Forecast, Generation, Scenario
from tidegate.client.session import AsyncSession
from tidegate.client.sync import Batches, Client, Session
from tidegate.client.values.predictions import Prediction, Predictions, RowFlag
from tidegate.client.values.records import (
    Description,
    Done,
    Feature,
    Migrated,
    Model,
    ModelVersion,
    Opened,
    Reloaded,
    SessionInfo,
)

__all__ = [
    "AsyncBatches",
    "AsyncClient",
    "AsyncSession",
    "Batches",
    "Client",
    "Description",
    "Done",
    "Feature",
    "Forecast",
    "Generation",
    "Migrated",
    "Model",
    "ModelVersion",
    "Opened",
    "Prediction",
    "Predictions",
    "Reloaded",
    "RowError",
    "RowFlag",
    "Scenario",
    "Session",
    "SessionInfo",
]
