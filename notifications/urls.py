from django.urls import path

from notifications import inbox_views, views

urlpatterns = [
    path("notifications", views.Notifications.as_view()),
    path("notifications/batch", views.Batch.as_view()),
    path("notifications/<uuid:message_id>", views.OneNotification.as_view()),
    path("inbox", inbox_views.InboxPage.as_view()),
    path("inbox/<str:deed>", inbox_views.Receipts.as_view()),
    path("topics/<path:topic>/messages", views.TopicMessages.as_view()),
]
