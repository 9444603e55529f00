from django.urls import path

from accounts import views

app_name = "accounts"
urlpatterns = [path("login/<str:token>", views.operator_login, name="login")]

api_urlpatterns = [
    path("users/<path:user>", views.OneUser.as_view()),
    path("token", views.OwnToken.as_view()),
    path("tokens", views.Tokens.as_view()),
    path("tokens/<uuid:token_id>", views.OneToken.as_view()),
    path("tickets", views.Tickets.as_view()),
    path("audit", views.Audit.as_view()),
]
