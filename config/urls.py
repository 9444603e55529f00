"""The URL map. What waits (sockets, streams, polls) is routed in asgi.py."""

from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, JsonResponse
from django.urls import include, path, re_path
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from accounts.urls import api_urlpatterns as accounts_api
from adapters import cache_views
from config import health, schema  # noqa: F401 (schema registers itself)
from notifications import event_views


@csrf_exempt  # Or a POST would be refused for that, and as HTML.
def no_such_route(_request: HttpRequest, **_parts: str) -> JsonResponse:
    return JsonResponse(
        {"error": {"code": "not_found", "message": "There is no such route: see /api/docs."}}, status=404
    )


handler500 = "config.api.server_error"

urlpatterns = [
    path("livez", health.livez),
    path("readyz", health.readyz),
    path("metrics", health.metrics),
    path("admin/", admin.site.urls),
    path("accounts/", include("accounts.urls")),
    path("api/schema", SpectacularAPIView.as_view(authentication_classes=[], permission_classes=[]), name="schema"),
    path(
        "api/docs",
        SpectacularSwaggerSplitView.as_view(url_name="schema", authentication_classes=[], permission_classes=[]),
        name="docs",
    ),
    path("api/", include("realtime.urls")),
    path("api/", include("presence.urls")),
    path("api/", include("leaderboards.urls")),
    path("api/", include("sessions_app.urls")),
    path("api/", include("notifications.urls")),  # Before `users/…`, which would take its `users/…/preferences`.
    path("api/", include("adapters.urls")),
    path("api/", include(accounts_api)),
    path("cache/<str:cache>", cache_views.CachedValue.as_view()),
    path("topics/<str:cache>/<path:topic>", event_views.PublishToTopic.as_view()),
    *(re_path(rf"^{start}/(?P<rest>[\s\S]*)$", no_such_route) for start in ("api", "cache", "topics")),
    *([path("demo/", include("demo.urls"))] if settings.DEMO else []),
    path("", RedirectView.as_view(url="/demo/" if settings.DEMO else "/api/docs")),
]
