from django.urls import path

from sessions_app import views

urlpatterns = [
    path("sessions", views.Sessions.as_view()),
    path("sessions/<str:session>", views.OneSession.as_view()),
    path("sessions/<str:session>/renew", views.Renewal.as_view()),
    path("sessions/<str:session>/ack", views.Acknowledgement.as_view()),
]
