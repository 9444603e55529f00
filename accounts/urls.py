from django.urls import path

from accounts import views

app_name = "accounts"
urlpatterns = [path("login/<str:token>", views.operator_login, name="login")]
