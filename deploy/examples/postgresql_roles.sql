-- The least rights of a CRM that uses the SQL API: it may request operations and read what became of them.
--   psql "$OWNER_DATABASE_URL" -v ON_ERROR_STOP=1 -f postgresql_roles.sql     then: GRANT b2copy_crm TO your_crm_user;
CREATE ROLE b2copy_crm NOLOGIN;
SELECT format('GRANT USAGE ON SCHEMA %I TO b2copy_crm', current_schema()) \gexec
GRANT INSERT ON b2copy_requests TO b2copy_crm;
GRANT USAGE ON SEQUENCE b2copy_requests_id_seq TO b2copy_crm;
GRANT SELECT ON b2copy_status TO b2copy_crm;
