"""All settings, from the environment; an empty environment gives a working development set-up.

Every variable read here has its row in docs/settings.md.
"""

import json
import os
import re
import secrets
import warnings
from pathlib import Path
from typing import Any

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from kombu import Queue

from config.logging import logging_config

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
FANFARE_HOME = Path(env.str("FANFARE_HOME", default=str(BASE_DIR / ".fanfare"))).resolve()
FANFARE_HOME.mkdir(mode=0o700, parents=True, exist_ok=True)


def secret(name: str) -> str:
    """The secret from the environment, else from its file (mode 600) in FANFARE_HOME, made on first use."""
    if value := env.str(name, default=""):
        return str(value)
    path = FANFARE_HOME / name.lower()
    draft = FANFARE_HOME / f"{name.lower()}.{os.getpid()}"
    if not path.exists():
        with open(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(48))
        try:
            os.link(draft, path)  # Fails where another process was first: then its secret counts.
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()


def json_setting(name: str) -> Any:
    """A JSON object from the environment. Raises ImproperlyConfigured for what is no JSON."""
    try:
        return json.loads(env.str(name, default="") or "{}")
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is not JSON: {error}.") from None


# --- Who we are -----------------------------------------------------------------------------------

PRODUCTION = env.bool("PRODUCTION", default=False)
DEBUG = env.bool("DEBUG", default=not PRODUCTION)
DEMO = not PRODUCTION
HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
WEB_PROCESSES = env.int("WEB_PROCESSES", default=1)
WORKER_PROCESSES = env.int("WORKER_PROCESSES", default=2)
TASK_PROCESSES = env.int("TASK_PROCESSES", default=2)
DELIVERY_PROCESSES = env.int("DELIVERY_PROCESSES", default=1)
STAGE = env.str("STAGE", default="dev")
SSM_STAGE = env.str("SSM_STAGE", default=STAGE)
SERVICE = env.str("SERVICE", default="fanfare")
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO" if STAGE == "prod" else "DEBUG")
PROMETHEUS_MULTIPROC_DIR = env.str("PROMETHEUS_MULTIPROC_DIR", default="")

SECRET_KEY = secret("SECRET_KEY")
TOKEN_SIGNING_KEY = secret("TOKEN_SIGNING_KEY")
SECRETS_KEY = secret("SECRETS_KEY")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=[] if PRODUCTION else ["localhost", "127.0.0.1", "[::1]", HOST])
ALLOWED_ORIGINS = env.list("ALLOWED_ORIGINS", default=[])
TRUSTED_PROXIES = env.list("TRUSTED_PROXIES", default=[])

if PRODUCTION:
    if DEBUG:
        raise ImproperlyConfigured("PRODUCTION=1 does not go with DEBUG=1: unset DEBUG.")
    if not ALLOWED_HOSTS or "*" in ALLOWED_HOSTS:
        raise ImproperlyConfigured("PRODUCTION=1 needs ALLOWED_HOSTS: the host names of this service, never '*'.")
    for weak in (
        name
        for name in ("SECRET_KEY", "TOKEN_SIGNING_KEY", "AUTHORIZE_SECRET", "SECRETS_KEY")
        if len(secret(name)) < 32
    ):
        raise ImproperlyConfigured(f"{weak} is shorter than 32 characters: choose a long random one.")

# --- Who calls ------------------------------------------------------------------------------------

USER_ERASERS = [
    "notifications.erasure.erase_user",
    "adapters.dead_letters.erase_user",
    "presence.erasure.erase_user",
    "leaderboards.erasure.erase_user",
    "sessions_app.erasure.erase_user",
]
USER_MOVERS = ["sessions_app.sessions.move"]
AUDIT_DAYS = env.int("AUDIT_DAYS", default=365)
CREDENTIAL_MAX_DAYS = env.int("CREDENTIAL_MAX_DAYS", default=31)
RATE_SERVICE = env.str("RATE_SERVICE", default="1000/s")
RATE_USER = env.str("RATE_USER", default="20/s")
RATE_ADDRESS = env.str("RATE_ADDRESS", default="50/10s")
RATE_LOGIN = env.str("RATE_LOGIN", default="10/m")
AUTHENTICATION_BACKENDS = ["accounts.backends.ThrottledBackend"]
try:
    JWT_ISSUERS = json.loads(env.str("JWT_ISSUERS", default="") or "[]")
except ValueError as error:
    raise ImproperlyConfigured(f"JWT_ISSUERS is not JSON: {error}.") from None

# --- The project ----------------------------------------------------------------------------------

INSTALLED_APPS = [
    "daphne",  # First, so that `runserver` speaks ASGI.
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "config",
    "accounts",
    "realtime",
    "adapters",
    "notifications",
    "presence",
    "leaderboards",
    "sessions_app",
    *(["demo"] if DEMO else []),
]
MIDDLEWARE = [
    "config.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
STATIC_URL = "/static/"
STATIC_ROOT = FANFARE_HOME / "static"
STATIC_ROOT.mkdir(exist_ok=True)
STATICFILES_DIRS = [BASE_DIR / "static"]
# WhiteNoise hands Django open files, which it reads in a thread: right for small files, and nothing to warn about.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
LOGGING_CONFIG = None
logging_config(LOG_LEVEL)

# --- Database: the record -------------------------------------------------------------------------

DATABASE_POOL = env.int("DATABASE_POOL", default=10)
DATABASE_TIMEOUT = env.int("DATABASE_TIMEOUT", default=20)


def database() -> dict[str, Any]:
    config: dict[str, Any] = env.db_url("DATABASE_URL", default=f"sqlite:///{FANFARE_HOME / 'fanfare.sqlite3'}")
    if config["ENGINE"].endswith("sqlite3"):
        # WAL and IMMEDIATE: without them parallel writers fail with "database is locked".
        config["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": DATABASE_TIMEOUT,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
        }
        config["TEST"] = {"NAME": str(FANFARE_HOME / "test.sqlite3")}  # A file, for threads share it.
    else:
        config["OPTIONS"] = {
            **config.get("OPTIONS", {}),
            "pool": {"min_size": 1, "max_size": DATABASE_POOL, "timeout": 5},
            "connect_timeout": 5,
            "options": f"-c lock_timeout=5s -c statement_timeout={DATABASE_TIMEOUT}s",
        }
    return config


DATABASES = {"default": database()}

# --- Redis or Valkey: the bus and the broker, never the only copy ---------------------------------

REDIS_URL = env.str("REDIS_URL", default=f"unix://{FANFARE_HOME / 'valkey.sock'}")
REDIS_TIMEOUT = 2.0  # Seconds. With none, a stopped Redis blocks every publisher for ever.
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            "hosts": [
                {
                    "address": REDIS_URL,
                    "socket_timeout": REDIS_TIMEOUT,
                    "socket_connect_timeout": REDIS_TIMEOUT,
                }
            ],
            "prefix": "fanfare",
        },
    }
}

CELERY_BROKER_URL = env.str("CELERY_BROKER_URL", default="") or REDIS_URL.replace("unix://", "redis+socket://", 1)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
SESSION_ROLE_ARN = env.str("SESSION_ROLE_ARN", default="")
QUEUES = ("celery", "tasks", "outside", *(["sessions"] if SESSION_ROLE_ARN else []))
if SQS_BROKER := CELERY_BROKER_URL.startswith("sqs://"):
    account = CELERY_BROKER_URL.removeprefix("sqs://").strip("/")  # As sqs.eu-west-1.amazonaws.com/123456789012
    if account.count("/") != 1:
        raise ImproperlyConfigured("CELERY_BROKER_URL: write sqs://sqs.<region>.amazonaws.com/<account>.")
    CELERY_BROKER_URL = "sqs://"  # Keys and endpoint come from where boto3 looks for them.
    region = re.match(r"sqs\.([a-z0-9-]+)\.", account)
    CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = {
        "region": region[1] if region else os.environ.get("AWS_REGION"),
        "wait_time_seconds": 20,
        "polling_interval": 0.1,
        # Named, or each process lists and makes queues, and needs the right to do so. When a task of a killed worker
        # comes back, the queue says: its VisibilityTimeout.
        "predefined_queues": {
            name: {"url": f"https://{account}/{SERVICE}-{STAGE}-celery" + ("" if name == "celery" else f"-{name}")}
            for name in QUEUES
        },
    }
    CELERY_WORKER_ENABLE_REMOTE_CONTROL = False  # It takes a queue for each worker.
else:
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        # A task whose worker was killed comes back after this many seconds; both restore options at 1, or it takes 100.
        "visibility_timeout": 120,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        "socket_timeout": 30,
        "socket_connect_timeout": REDIS_TIMEOUT,
    }
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_TIME_LIMIT = 100  # Below the visibility timeout, so that no task runs twice at once.
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    "publish-due": {"task": "notifications.tasks.publish_due", "schedule": 1.0, "options": {"expires": 5}},
    "purge": {"task": "notifications.tasks.purge", "schedule": 60.0, "options": {"expires": 60}},
    "purge-identity": {"task": "accounts.tasks.purge", "schedule": 60.0, "options": {"expires": 60}},
    "deliver": {"task": "adapters.tasks.deliver", "schedule": 1.0, "options": {"expires": 1}},
    "settle-deliveries": {"task": "adapters.tasks.settle", "schedule": 60.0, "options": {"expires": 60}},
    "purge-outside": {"task": "adapters.tasks.purge", "schedule": 60.0, "options": {"expires": 60}},
}

# --- The log --------------------------------------------------------------------------------------

RETENTION_DAYS = env.int("RETENTION_DAYS", default=30)
IDEMPOTENCY_DAYS = env.int("IDEMPOTENCY_DAYS", default=14)
SCHEDULE_MAX_DAYS = env.int("SCHEDULE_MAX_DAYS", default=365)
MESSAGE_MAX_BYTES = env.int("MESSAGE_MAX_BYTES", default=64 * 1024)
BATCH_MAX_BYTES = env.int("BATCH_MAX_BYTES", default=8 * 1024 * 1024)
BATCH_MAX_MESSAGES = env.int("BATCH_MAX_MESSAGES", default=10_000)
DATA_UPLOAD_MAX_MEMORY_SIZE = BATCH_MAX_BYTES
INBOX_FROM_FIRST_SEEN = env.bool("INBOX_FROM_FIRST_SEEN", default=True)
MESSAGE_READ_RECEIPTS = env.bool("MESSAGE_READ_RECEIPTS", default=False)
CRITICAL_TYPES = env.list("CRITICAL_TYPES", default=[])
MESSAGE_SINKS = ["notifications.outward.owe_messages", "sessions_app.dispatches.owe"]
TIMELINE_STEPS = ["sessions_app.dispatches.steps"]

# --- Tasks ----------------------------------------------------------------------------------------

TASKS_QUEUE = env.str("TASKS_QUEUE", default="")
TASKS_DAYS = env.int("TASKS_DAYS", default=30)
TASK_TIMEOUT = env.float("TASK_TIMEOUT", default=90.0)
TASK_ATTEMPTS = env.int("TASK_ATTEMPTS", default=10)
TASK_LEASE_SECONDS = env.float("TASK_LEASE_SECONDS", default=10.0)
TASK_ECHO_SECONDS = env.float("TASK_ECHO_SECONDS", default=5.0)
# Users' tasks have a queue, and in production workers, of their own: they must not keep the log's work waiting.
# So have deliveries: a receiver that is slow must not either. Rankings that are made anew take long, too.
CELERY_TASK_QUEUES = [Queue(name, routing_key=name) for name in QUEUES]
CELERY_TASK_ROUTES = {
    "notifications.tasks.run_task": {"queue": "tasks"},
    "leaderboards.tasks.rebuild": {"queue": "tasks"},
    "adapters.tasks.deliver": {"queue": "outside"},
    "sessions_app.tasks.dispatch": {"queue": "sessions"},
}
SWEEP_SECONDS = TASK_LEASE_SECONDS * 0.4  # A dead worker's task is found after 1.4 leases at most.
CELERY_BEAT_SCHEDULE["sweep-tasks"] = {
    "task": "notifications.tasks.sweep_tasks",
    "schedule": SWEEP_SECONDS,
    "options": {"expires": SWEEP_SECONDS},
}

# --- Outside --------------------------------------------------------------------------------------

ADAPTERS = {
    "webhook": "adapters.webhook.Webhook",
    "table": "adapters.table.Table",
    "functions": "adapters.functions.Functions",
    "momento": "adapters.momento.topic.MomentoTopic",
    "sqs": "adapters.aws.sqs.Queue",
    "sns": "adapters.aws.sns.Topic",
    "eventbridge": "adapters.aws.eventbridge.EventBus",
    "kinesis": "adapters.aws.kinesis.Stream",
}
MESSAGES_QUEUE_URL = env.str("MESSAGES_QUEUE_URL", default="")
MESSAGES_TOPIC_ARN = env.str("MESSAGES_TOPIC_ARN", default="")
PRESENCE_SOURCE = env.str("PRESENCE_SOURCE", default="")
DELIVERY_TIMEOUT = env.float("DELIVERY_TIMEOUT", default=10.0)
DELIVERY_HOURS = env.float("DELIVERY_HOURS", default=24.0)
DELIVERED_DAYS = env.float("DELIVERED_DAYS", default=3.0)
DEAD_LETTER_DAYS = env.float("DEAD_LETTER_DAYS", default=14.0)
DESTINATION_FAILING_DAYS = env.float("DESTINATION_FAILING_DAYS", default=5.0)
DESTINATIONS_AT_ONCE = env.int("DESTINATIONS_AT_ONCE", default=50)
REDRIVES_PER_SECOND = env.int("REDRIVES_PER_SECOND", default=100)
WEBHOOK_NETWORKS = env.list("WEBHOOK_NETWORKS", default=[])
MOMENTO_API_KEY = env.str("MOMENTO_API_KEY", default="")
MOMENTO_TOKEN_KEY = env.str("MOMENTO_TOKEN_KEY", default="")
MOMENTO_ENDPOINT = env.str("MOMENTO_ENDPOINT", default="")
MOMENTO_PLAINTEXT = env.bool("MOMENTO_PLAINTEXT", default=False)
MOMENTO_CACHES = env.list("MOMENTO_CACHES", default=[f"{SERVICE}-{STAGE}"])
MOMENTO_TTL_MAX = env.int("MOMENTO_TTL_MAX", default=24 * 3600)
TOKEN_PROVIDERS = {"momento": "adapters.momento.tokens.issue"}
INGEST_HANDLERS = {
    "notification": "notifications.ingest.notification",
    "sumu": "notifications.ingest.sumu",
    "reuters": "sessions_app.ingest.reuters",
    "eventbridge": "notifications.events.eventbridge",
    "task": "notifications.ingest.task",
}
INGEST_SOURCES = json_setting("INGEST_SOURCES")
NOTIFICATIONS_QUEUE_URL = env.str("NOTIFICATIONS_QUEUE_URL", default="")
NOTIFICATIONS_TOPIC_ARN = env.str("NOTIFICATIONS_TOPIC_ARN", default="")
INGEST_TRIES = env.int("INGEST_TRIES", default=5)
EVENTS_CACHES = json_setting("EVENTS_CACHES") or {"default": {}}

# --- Presence -------------------------------------------------------------------------------------

PRESENCE_LEASE = env.float("PRESENCE_LEASE", default=15.0)
PRESENCE_GRACE = env.float("PRESENCE_GRACE", default=10.0)
PRESENCE_RESTART_GRACE = env.float("PRESENCE_RESTART_GRACE", default=60.0)
CELERY_BEAT_SCHEDULE["sweep-presence"] = {
    "task": "presence.tasks.sweep",
    "schedule": 1.0,
    "options": {"expires": 1},
}

# --- Leaderboards ---------------------------------------------------------------------------------

RANKINGS = {
    "redis": "leaderboards.redis_ranking.RedisRanking",
    "database": "leaderboards.database_ranking.DatabaseRanking",
    "momento": "leaderboards.momento_ranking.MomentoRanking",
}
LEADERBOARD_AUTO_CREATE = env.bool("LEADERBOARD_AUTO_CREATE", default=True)
LEADERBOARD_DATABASE_ENTRIES = env.int("LEADERBOARD_DATABASE_ENTRIES", default=1_000_000)
CELERY_BEAT_SCHEDULE |= {
    "roll-over": {"task": "leaderboards.tasks.roll_over", "schedule": 1.0, "options": {"expires": 1}},
    "archive-windows": {"task": "leaderboards.tasks.archive", "schedule": 2.0, "options": {"expires": 2}},
    "rebuild-rankings": {"task": "leaderboards.tasks.rebuild", "schedule": 1.0, "options": {"expires": 1}},
    "tidy-boards": {"task": "leaderboards.tasks.tidy", "schedule": 60.0, "options": {"expires": 60}},
}

# --- Browser sessions -----------------------------------------------------------------------------

SESSION_TTL = env.int("SESSION_TTL", default=3600)
if SESSION_TTL < 60:
    raise ImproperlyConfigured("SESSION_TTL: a session lives for a minute at least.")
if SESSION_ROLE_ARN and not re.fullmatch(r"arn:[a-z-]+:iam::\d{12}:role/\S+", SESSION_ROLE_ARN):
    raise ImproperlyConfigured("SESSION_ROLE_ARN: write arn:aws:iam::<account>:role/<name>.")
SESSION_CHUNK = env.int("SESSION_CHUNK", default=500)
SESSION_SENDS_AT_ONCE = env.int("SESSION_SENDS_AT_ONCE", default=32)
SESSION_PROCESSES = env.int("SESSION_PROCESSES", default=1)
CELERY_BEAT_SCHEDULE["purge-sessions"] = {
    "task": "sessions_app.tasks.purge",
    "schedule": 60.0,
    "options": {"expires": 60},
}
if SESSION_ROLE_ARN:
    CELERY_BEAT_SCHEDULE |= {
        "dispatch": {"task": "sessions_app.tasks.dispatch", "schedule": 1.0, "options": {"expires": 1}},
        "delete-orphans": {"task": "sessions_app.tasks.delete_orphans", "schedule": 600.0, "options": {"expires": 600}},
    }

# --- Live -----------------------------------------------------------------------------------------

REALTIME_TOPICS = {
    "user": "notifications.topics.UserTopic",
    "account": "notifications.topics.AccountTopic",
    "all": "notifications.topics.AllTopic",
    "topic": "notifications.topics.NamedTopic",
    "presence": "presence.room_topics.RoomTopic",
    "watch": "presence.topics.WatchTopic",
    "board": "leaderboards.topics.BoardTopic",
    "session": "sessions_app.topics.SessionTopic",
}
REALTIME_LOG = "notifications.topics.DatabaseLog"
REALTIME_GREETING = "notifications.inbox_views.greeting"
REALTIME_ACTIONS = {
    **dict.fromkeys(("seen", "read", "unread", "archive"), "notifications.inbox_views.perform"),
    "ack": "notifications.acknowledgements.perform",
    **dict.fromkeys(("send", "publish"), "adapters.client_messages.perform"),
    "status": "presence.availability.perform",
}
REALTIME_WATCHING = "presence.watching.Watching"
REALTIME_TICKER = "leaderboards.ticker.Ticker"
REALTIME_MUTES = "notifications.preferences.muted"
REALTIME_OBSERVER = env.str("REALTIME_OBSERVER", default="presence.tracker.Tracker")
REALTIME_SESSION = "sessions_app.attaching.attach"
BUS_KEEPER = "sessions_app.notices.keep"
REALTIME_DATABASE_THREADS = env.int("REALTIME_DATABASE_THREADS", default=4)
POSITION_CHECK_SECONDS = env.float("POSITION_CHECK_SECONDS", default=25.0)
RECOVERY_LIMIT = env.int("RECOVERY_LIMIT", default=1000)
OUTBOX_MAX_BYTES = env.int("OUTBOX_MAX_BYTES", default=1024 * 1024)
FRAME_MAX_BYTES = env.int("FRAME_MAX_BYTES", default=64 * 1024)
TOPICS_PER_CONNECTION = env.int("TOPICS_PER_CONNECTION", default=128)
CONNECTIONS_PER_USER = env.int("CONNECTIONS_PER_USER", default=50)
CONNECTIONS_PER_PROCESS = env.int("CONNECTIONS_PER_PROCESS", default=20_000)
HANDSHAKES_PER_SECOND = env.int("HANDSHAKES_PER_SECOND", default=1000)
DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=5.0)
FRAMES_PER_SECOND = env.float("FRAMES_PER_SECOND", default=6.0)
FRAMES_BURST = env.int("FRAMES_BURST", default=120)
BUS_QUEUE_EVENTS = env.int("BUS_QUEUE_EVENTS", default=100_000)
QUERY_CREDENTIALS = env.bool("QUERY_CREDENTIALS", default=True)

TOPIC_AUTHORIZERS = json_setting("TOPIC_AUTHORIZERS")
AUTHORIZE_SECRET = secret("AUTHORIZE_SECRET")
AUTHORIZE_TIMEOUT = env.float("AUTHORIZE_TIMEOUT", default=2.0)
AUTHORIZE_CACHE_SECONDS = env.float("AUTHORIZE_CACHE_SECONDS", default=60.0)

# --- Web ------------------------------------------------------------------------------------------

REQUESTS_AT_ONCE = env.int("REQUESTS_AT_ONCE", default=8)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.BearerAuthentication",
        "accounts.authentication.OperatorAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_THROTTLE_CLASSES": ["accounts.throttles.PrincipalThrottle"],
    "DEFAULT_PARSER_CLASSES": ["config.api.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["config.api.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "config.api.exception_handler",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Fanfare",
    "DESCRIPTION": "Notifications, live, for any application: what is accepted is stored, and delivered in order.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "POSTPROCESSING_HOOKS": ["config.schema.add_waiting_endpoints"],
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "connect-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
CSRF_TRUSTED_ORIGINS = ALLOWED_ORIGINS
LOGIN_URL = "admin:login"
if PRODUCTION:
    SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=True)
    SECURE_REDIRECT_EXEMPT = [r"^livez$", r"^readyz$", r"^metrics$"]
    SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=365 * 24 * 3600)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = True
    SECURE_HSTS_PRELOAD = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
