"""Logs on standard error: plain lines for people, or one JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, and error with its trace where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def fatal(message: str) -> str:
    """The JSON line of why a program ends, which no logger is left for, or is there yet."""
    return JsonFormatter().format(logging.LogRecord("tidegate", logging.CRITICAL, "", 0, message, None, None))


def configure(form: str, level: str) -> None:
    """Sets up the root logger; `form` is "plain" or "json"."""
    stream = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    stream.setFormatter(JsonFormatter() if form == "json" else plain)
    logging.basicConfig(level=level.upper(), handlers=[stream], force=True)
