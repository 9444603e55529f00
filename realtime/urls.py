from django.urls import path

from realtime import views

urlpatterns = [
    path("connections/<str:connection>", views.OneConnection.as_view()),
    path("presence/<path:user>/connections", views.UserConnections.as_view()),
]
