from django.urls import path

from demo import views, writethrough_views

app_name = "demo"
urlpatterns = [
    path("", views.page, name="page"),
    path("token", views.token, name="token"),
    path("writethrough/", writethrough_views.page, name="writethrough"),
    path("writethrough/weather", writethrough_views.weather, name="weather"),
]
