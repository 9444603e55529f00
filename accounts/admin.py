from django.contrib import admin
from django.http import HttpRequest

from accounts.models import ApiKey


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows are written by services only, by an action or the API; they are never counted, for there may be millions."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: object = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: object = None) -> bool:
        return False


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly):
    """`manage.py apikey` creates and revokes."""

    list_display = ["name", "prefix", "created_at", "expires_at", "last_used_at", "revoked_at"]
    fields = ("name", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
