"""A small CRM. Its database holds the ledger's tables too (`b2copy-sync migrate`), so B2COPY_DATABASE_URL names it."""

import os
from pathlib import Path

FOLDER = Path(os.environ.get("CRM_FOLDER", Path(__file__).parents[1]))

SECRET_KEY = os.environ.get("CRM_SECRET_KEY", "for development alone")
ALLOWED_HOSTS = ["127.0.0.1", "testserver"]
INSTALLED_APPS = ["crm"]
ROOT_URLCONF = "crm.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": FOLDER / "crm.sqlite3",
        # A transaction of the CRM that reads first and writes then would fail if a worker writes in between.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 10},
        # A file, because the tests' ledger stands in the same database, and other connections must see it.
        "TEST": {"NAME": FOLDER / "test.sqlite3"},
    }
}
LOGGING = {  # to stderr, also without DEBUG
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"django": {"handlers": ["console"], "level": "WARNING", "propagate": False}},
}
WEBHOOK_SECRET_FILE = Path(os.environ.get("CRM_WEBHOOK_SECRET_FILE", FOLDER / "webhook.secret"))
