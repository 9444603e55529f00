from django.db import migrations


class Migration(migrations.Migration):
    """The table stays: it is the app `accounts` that knows it from now on."""

    dependencies = [
        ("notifications", "0005_acknowledgements_preferences"),
        ("accounts", "0003_idempotencykey"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(state_operations=[migrations.DeleteModel(name="IdempotencyKey")])
    ]
