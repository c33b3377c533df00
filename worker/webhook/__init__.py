"""The CRM's webhook: notices are signed (https://www.standardwebhooks.com) and sent to B2COPY_WEBHOOK_URL."""
