from django.contrib import admin
from django.http import HttpRequest

from notifications.models import Message, Task, Topic


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """The log is written by services only, and never counted: it may have millions of rows."""

    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, _request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: object = None) -> bool:
        return False

    def has_delete_permission(self, _request: HttpRequest, _obj: object = None) -> bool:
        return False


@admin.register(Topic)
class TopicAdmin(ReadOnly):
    list_display = ["name", "epoch", "head", "tail"]
    search_fields = ["name__startswith"]


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ["id", "topic", "offset", "type", "created_at", "expires_at", "recalled_at"]
    list_select_related = ["topic"]
    search_fields = ["topic__name__startswith"]
    ordering = ["-id"]


@admin.register(Task)
class TaskAdmin(ReadOnly):
    list_display = ["id", "user", "type", "state", "progress", "attempts", "created_at", "finished_at"]
    list_filter = ["state"]
    search_fields = ["user__exact"]
    ordering = ["-id"]
