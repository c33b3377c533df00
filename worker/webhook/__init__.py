"""Notices to the CRM: by signed webhook (https://www.standardwebhooks.com), by a Celery task of the CRM, or by both."""
