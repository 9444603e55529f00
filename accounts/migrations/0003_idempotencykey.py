import django.utils.timezone
import uuid_utils.compat
from django.db import migrations, models


class Migration(migrations.Migration):
    """The table stays as it is: only the app that it belongs to changes."""

    dependencies = [
        ("accounts", "0002_account_auditentry_revocation_ticket_token_user"),
        ("notifications", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.CreateModel(
                    name="IdempotencyKey",
                    fields=[
                        (
                            "id",
                            models.UUIDField(
                                default=uuid_utils.compat.uuid7, editable=False, primary_key=True, serialize=False
                            ),
                        ),
                        ("principal", models.CharField(max_length=220)),
                        ("route", models.CharField(max_length=100)),
                        ("key", models.CharField(max_length=200)),
                        ("body_digest", models.CharField(max_length=64)),
                        ("reply", models.TextField(default="")),
                        ("created_at", models.DateTimeField(db_index=True, default=django.utils.timezone.now)),
                    ],
                    options={
                        "db_table": "notifications_idempotencykey",
                        "constraints": [
                            models.UniqueConstraint(
                                models.F("principal"), models.F("route"), models.F("key"), name="idempotency_once"
                            )
                        ],
                    },
                ),
            ]
        )
    ]
