-- PostgreSQL's roles: each may do what its processes do, and nothing else. Run it as a superuser (or as a role with
-- CREATEROLE that owns the schema) in the ledger's database: before the first `b2copy-sync migrate`, and after each one.
-- It may be run any number of times. It sets no password: `ALTER ROLE ... PASSWORD` does, or deploy/postgres/init.sh.
--
--   psql "$ADMIN_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--
--   b2copy_owner    `migrate` and `purge`: owns the tables
--   b2copy_worker   workers and b2copy-sync: reads and writes operations, deletes none; the audit only grows
--   b2copy_enqueue  a CRM that calls tasks.enqueue: records operations, reads them, changes none
--   b2copy_crm      a CRM that speaks SQL: INSERT into b2copy_requests, SELECT from b2copy_status
--   b2copy_viewer   people and programs that only look

DO $roles$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['b2copy_owner', 'b2copy_worker', 'b2copy_enqueue', 'b2copy_crm', 'b2copy_viewer'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', role);
        END IF;
        EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO %I', pg_catalog.current_database(), role);
        EXECUTE pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I', pg_catalog.current_schema(), role);
    END LOOP;
    EXECUTE pg_catalog.format('GRANT CREATE ON SCHEMA %I TO b2copy_owner', pg_catalog.current_schema());
    -- A mistake of a person who only looks must not hold anybody up.
    ALTER ROLE b2copy_viewer SET default_transaction_read_only = on;
    ALTER ROLE b2copy_viewer SET statement_timeout = '5s';
END
$roles$;

DO $grants$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT relname AS name, relkind AS kind
        FROM pg_class
        WHERE relnamespace = pg_catalog.current_schema()::regnamespace AND relname LIKE 'b2copy\_%' AND relkind IN ('r', 'v', 'S')
    LOOP
        EXECUTE pg_catalog.format(
            'REVOKE ALL ON %s %I FROM b2copy_worker, b2copy_enqueue, b2copy_crm, b2copy_viewer',
            CASE found.kind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, found.name
        );
        IF found.kind = 'S' THEN
            EXECUTE pg_catalog.format('GRANT USAGE ON SEQUENCE %I TO b2copy_worker', found.name);
        ELSIF found.kind = 'v' THEN
            EXECUTE pg_catalog.format('GRANT SELECT ON TABLE %I TO b2copy_worker, b2copy_viewer', found.name);
        ELSE
            EXECUTE pg_catalog.format('GRANT SELECT ON TABLE %I TO b2copy_viewer', found.name);
            EXECUTE pg_catalog.format(
                'GRANT %s ON TABLE %I TO b2copy_worker',
                CASE found.name
                    WHEN 'b2copy_schema_version' THEN 'SELECT'
                    WHEN 'b2copy_audit' THEN 'SELECT, INSERT'  -- what somebody decided is never changed
                    WHEN 'b2copy_operations' THEN 'SELECT, INSERT, UPDATE'  -- only `purge` removes operations
                    WHEN 'b2copy_approvals' THEN  -- what somebody proposed is never changed
                        'SELECT, INSERT, UPDATE (decision, decided_at, decided_by, decided_note)'
                    WHEN 'b2copy_attempts' THEN 'SELECT, INSERT, UPDATE'
                    WHEN 'b2copy_batches' THEN 'SELECT, INSERT, UPDATE'
                    ELSE 'SELECT, INSERT, UPDATE, DELETE'
                END,
                found.name
            );
        END IF;
        CASE found.name
            WHEN 'b2copy_operations' THEN
                GRANT SELECT ON b2copy_operations TO b2copy_enqueue;
                -- What a new operation needs, and nothing that only its way to the end writes.
                GRANT INSERT (
                    key, kind, payload, lane, entity, parent, destination, on_unknown, batch, trace_id, requested_at,
                    requested_by, time_allowed_ms, deadline_at, result, state, state_since, due_at, phase, fence,
                    counted_attempts, polls, replays, last_wait_ms, external_wait_ms, sent, outcome_unknown
                ) ON b2copy_operations TO b2copy_enqueue;
            WHEN 'b2copy_operations_id_seq' THEN
                GRANT USAGE ON SEQUENCE b2copy_operations_id_seq TO b2copy_enqueue;
            WHEN 'b2copy_approvals_id_seq' THEN  -- after a restore the numbers of proposals go on from the time
                GRANT UPDATE ON SEQUENCE b2copy_approvals_id_seq TO b2copy_worker;
            WHEN 'b2copy_batches' THEN  -- begins an import, and decides nothing about it
                GRANT SELECT ON b2copy_batches TO b2copy_enqueue;
                GRANT INSERT (id, kind, lane, source, rows, requested_by, requested_at)
                    ON b2copy_batches TO b2copy_enqueue;
            -- Which payload an operation had before a person corrected it. It can read the details of all entries, and not
            -- who decided or why.
            WHEN 'b2copy_audit' THEN
                GRANT SELECT (at, action, subject, detail) ON b2copy_audit TO b2copy_enqueue;
            WHEN 'b2copy_ledger' THEN
                GRANT SELECT ON b2copy_ledger TO b2copy_enqueue;
            WHEN 'b2copy_schema_version' THEN
                GRANT SELECT ON b2copy_schema_version TO b2copy_enqueue;
            WHEN 'b2copy_requests' THEN  -- not requested_at: the database says when
                GRANT INSERT (kind, payload, lane, requested_by, batch, trace_id) ON b2copy_requests TO b2copy_crm;
                GRANT SELECT (id) ON b2copy_requests TO b2copy_crm;  -- for RETURNING id
            WHEN 'b2copy_requests_id_seq' THEN
                GRANT USAGE ON SEQUENCE b2copy_requests_id_seq TO b2copy_crm;
            WHEN 'b2copy_status' THEN
                GRANT SELECT ON b2copy_status TO b2copy_crm, b2copy_enqueue;
            ELSE NULL;
        END CASE;
    END LOOP;
END
$grants$;
