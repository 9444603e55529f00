from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "config"
    label = "fanfare"
