from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Withdrawal",
            [
                ("id", models.CharField(max_length=40, primary_key=True, serialize=False)),
                ("login", models.CharField(max_length=20)),
                ("fees", models.CharField(default="new", max_length=20)),
                ("sequence", models.BigIntegerField(default=0)),
            ],
        )
    ]
