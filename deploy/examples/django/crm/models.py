"""A withdrawal, and how far its fees are."""

from django.db import models


class Withdrawal(models.Model):
    id = models.CharField(primary_key=True, max_length=40)
    login = models.CharField(max_length=20)
    fees = models.CharField(max_length=20, default="new")
    sequence = models.BigIntegerField(default=0)  # of the last notice
