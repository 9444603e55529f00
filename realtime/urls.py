from django.urls import path, re_path

from realtime import views

urlpatterns = [
    re_path(r"^connections/(?P<connection>[0-9a-f]{32})$", views.OneConnection.as_view()),
    path("presence/<path:user>/connections", views.UserConnections.as_view()),
]
