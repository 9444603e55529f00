"""JSON log lines with a request id, and without credentials."""

import logging
import logging.config
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

OURS = (
    "accounts",
    "adapters",
    "config",
    "demo",
    "leaderboards",
    "notifications",
    "presence",
    "realtime",
    "sessions_app",
)

# Where a credential may stand: in a query parameter, subprotocol, header, cookie or login link; a key or JWT anywhere.
_CREDENTIALS = re.compile(
    r"(?i)((?:authorization|ticket|token|access_token)=)[^&\s\"']+"
    r"|(bearer[. ]+)[\w.~+/=-]+"
    r"|(/accounts/login/)[\w:.~-]+"
    r"|\b(ff_)\w+"
    r"|\b(eyJ)[\w-]+\.[\w-]+\.[\w-]*"
    r"|((?:sessionid|session_key|csrftoken)[\"']?\s{0,2}[=:,]\s{0,2}[\"']?)[\w-]+"
)


def redact(text: str) -> str:
    """The text with every credential that can be recognised cut to its prefix."""
    return _CREDENTIALS.sub(lambda match: f"{next(filter(None, match.groups()))}[redacted]", text)


def _redact_event(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: _redact_value(value) for key, value in event.items()}


def _redact_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _redact_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redact_value(inner) for inner in value]
    return value if value is None or isinstance(value, int | float) else redact(str(value))


def logging_config(level: str) -> None:
    """Sends the standard library's and structlog's records through one JSON formatter to stderr.

    Only our own lines are ever below INFO: other packages tell of each request, with all that is in it.
    """
    others = "INFO" if level in ("DEBUG", "NOTSET") else level
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "json": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": shared,
                    "processors": [
                        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                        _redact_event,
                        structlog.processors.EventRenamer("message"),
                        structlog.processors.JSONRenderer(),
                    ],
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"handlers": ["stderr"], "level": others},
            "loggers": {
                **{name: {"level": level} for name in OURS},
                "uvicorn": {"level": others, "propagate": True},
                "uvicorn.access": {"handlers": [], "propagate": False},
                "uvicorn.error": {"level": "WARNING", "propagate": True},  # Its INFO lines are one for each socket.
                "botocore": {"level": "WARNING"},  # It tells where it has found credentials.
                "celery.beat": {"level": "WARNING"},  # Celery tells of each task, and there is one a second.
                "celery.worker": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "celery.apps": {"level": "WARNING"},
                "channels_redis.pubsub": {"level": "CRITICAL"},  # A traceback a second while Redis is down.
                "django.db.backends": {"level": "INFO"},  # With DEBUG=1 it tells every value: session keys, payloads.
                "django.request": {"level": "ERROR"},  # Its warnings are the callers' 4xx.
                "django.channels.server": {"level": "WARNING"},
                "daphne": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},  # It tells of each request.
                "httpcore": {"level": "WARNING"},  # And of every header.
                "websockets": {"level": "WARNING"},  # And of every frame.
            },
        }
    )
