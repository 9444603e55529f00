from django.urls import path

from presence import connection_views, room_views, state_views

urlpatterns = [
    path("connections", connection_views.Connections.as_view()),
    path("presence", state_views.AccountPresence.as_view()),
    path("presence/query", state_views.PresenceQuery.as_view()),
    path("presence/rooms/<path:room>", room_views.RoomMembers.as_view()),
    path("presence/<path:user>/history", state_views.PresenceHistory.as_view()),
    path("presence/<path:user>", state_views.OnePresence.as_view()),  # Last: it would take the others' paths.
]
