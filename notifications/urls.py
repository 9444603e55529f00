from django.urls import path

from notifications import event_views, inbox_views, preference_views, task_views, views

urlpatterns = [
    path("notifications", views.Notifications.as_view()),
    path("notifications/batch", views.Batch.as_view()),
    path("notifications/<uuid:message_id>", views.OneNotification.as_view()),
    path("events", event_views.Events.as_view()),
    path("inbox", inbox_views.InboxPage.as_view()),
    path("inbox/ack", inbox_views.Acknowledge.as_view()),
    path("inbox/<str:deed>", inbox_views.Receipts.as_view()),
    path("tasks", task_views.Tasks.as_view()),
    path("tasks/<uuid:task_id>", task_views.OneTask.as_view()),
    path("tasks/<uuid:task_id>/retry", task_views.Retry.as_view()),
    path("tasks/<uuid:task_id>/progress", task_views.ReportProgress.as_view()),
    path("tasks/<uuid:task_id>/done", task_views.ReportDone.as_view()),
    path("tasks/<uuid:task_id>/failed", task_views.ReportFailed.as_view()),
    path("users/<path:user>/preferences", preference_views.Preferences.as_view()),
    path("topics/<path:topic>/messages", views.TopicMessages.as_view()),
]
