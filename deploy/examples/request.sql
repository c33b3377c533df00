-- Request the fees of a withdrawal in the CRM's own transaction: it is requested if the transaction commits.
--   psql "$CRM_DATABASE_URL" -v ON_ERROR_STOP=1 -f request.sql        sqlite3 -bail crm.sqlite < request.sql
BEGIN;
UPDATE withdrawals SET state = 'fees' WHERE id = 'W1';
INSERT INTO b2copy_requests (kind, payload, requested_by)
VALUES ('fees.process', '{"account_login": "123456", "request_id": "W1"}', 'back office');
COMMIT;
