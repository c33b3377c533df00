import pytest


@pytest.fixture
def b2copy_database_url(transactional_db, settings) -> str:  # `db` would roll back what the engine must see
    """The ledger stands in the CRM's own test database."""
    return f"sqlite:///{settings.DATABASES['default']['NAME']}"


@pytest.fixture
def webhook_secret(settings, tmp_path) -> str:
    settings.WEBHOOK_SECRET_FILE = tmp_path / "webhook.secret"
    settings.WEBHOOK_SECRET_FILE.write_text("whsec_" + "dGVz" * 8)
    return settings.WEBHOOK_SECRET_FILE.read_text()
