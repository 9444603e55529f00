from django.contrib import admin

from accounts.admin import ReadOnly
from sessions_app.models import BrowserSession


@admin.register(BrowserSession)
class BrowserSessionAdmin(ReadOnly):
    list_display = [
        "id",
        "user",
        "account",
        "transport",
        "address",
        "agent",
        "created_at",
        "last_seen_at",
        "expires_at",
    ]
    list_filter = ["transport"]
    search_fields = ["id__exact", "user__exact", "account__exact"]
    exclude = ["key", "state"]
    ordering = ["-created_at"]
