from django.contrib import admin
from django.http import HttpRequest

from accounts.models import ApiKey


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Read only: `manage.py apikey` creates and revokes."""

    list_display = ["name", "prefix", "created_at", "expires_at", "last_used_at", "revoked_at"]
    fields = ("name", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
    readonly_fields = ("name", "prefix", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: ApiKey | None = None) -> bool:
        return False
