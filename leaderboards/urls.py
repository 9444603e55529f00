from django.urls import path

from leaderboards import board_views, views

urlpatterns = [
    path("leaderboards", board_views.Boards.as_view()),
    path("leaderboards/<str:board>", views.Leaderboard.as_view()),
    path("leaderboards/<str:board>/windows", board_views.Windows.as_view()),
    path("leaderboards/<str:board>/<path:name>/hide", board_views.Hide.as_view()),
    path("leaderboards/<str:board>/<path:name>/unhide", board_views.Unhide.as_view()),
    path("leaderboards/<str:board>/<path:name>", views.OneName.as_view()),  # Last: it would take the others' paths.
]
