from django.contrib import admin

from accounts.admin import ReadOnly
from notifications.models import Message, Task, Topic


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
