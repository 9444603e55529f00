from django.urls import path

from adapters import fetch_views, ingest_views, views
from adapters.sources import sns

urlpatterns = [
    path("destinations", views.Destinations.as_view()),
    path("destinations/<uuid:destination_id>", views.OneDestination.as_view()),
    path("destinations/<uuid:destination_id>/rotate-secret", views.RotateSecret.as_view()),
    path("deliveries", views.Deliveries.as_view()),
    path("deliveries/redrive", views.Redrive.as_view()),
    path("client-messages/ack", fetch_views.Acknowledge.as_view()),
    path("ingest/<str:source>", ingest_views.Ingest.as_view()),
    path("ingest/<str:source>/sns", sns.FromSns.as_view()),
]
