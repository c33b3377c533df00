-- Erase what is stored about one person's MT login: run it as b2copy_owner, once for each login of that person.
--
--   psql "$OWNER_URL" --single-transaction -v ON_ERROR_STOP=1 -v platform=1 -v login=123456 \
--     -f deploy/postgres/erase_person.sql
--
-- Operations that have not ended stay, because B2COPY may be doing them, and so do requests that no worker has taken:
-- `still_open` counts both. Run it again when they have ended. What people decided stays in the audit, with who decided
-- and when; its reason, its payloads and the login of an identity go.

CREATE FUNCTION pg_temp.names(content text, login text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    -- JSON may stand in JSON, with a backslash before each quotation mark; an account may be a number there. The number
    -- of a withdrawal, a client, a platform or a currency is no login, although it may have the same digits.
    SELECT COALESCE(
        regexp_replace(
            translate(content, '\ ', ''),
            '"(id|request_?id|client_?id|crm_?id|account_?id|payment_?account|(investment_?)?platform(_?id)?'
            || '|product_?currency_?id|reopens)":("[^"]*"|[0-9]+)',
            '', 'gi'
        ) LIKE ANY (ARRAY['%"' || l || '"%', '%:' || l || ',%', '%:' || l || '}%']), false
    )
    FROM (SELECT replace(replace(replace(translate(login, ' ', ''), '\', ''), '%', '\%'), '_', '\_') AS l) AS escaped
$$;

CREATE TEMPORARY TABLE erased AS
SELECT id, key, ended_at IS NOT NULL AS has_ended
FROM b2copy_operations
WHERE entity = :'login' OR pg_temp.names(payload, :'login') OR pg_temp.names(result, :'login');

DELETE FROM b2copy_operations WHERE id IN (SELECT id FROM erased WHERE has_ended);  -- its attempts go with it
DELETE FROM b2copy_identities WHERE platform = :'platform' AND login = :'login';
DELETE FROM b2copy_reconciliation_accounts WHERE platform = :'platform' AND login = :'login';
DELETE FROM b2copy_reconciliation_differences WHERE platform = :'platform' AND login = :'login';
UPDATE b2copy_reconciliation SET anchor = NULL WHERE pg_temp.names(anchor, :'login');
UPDATE b2copy_reconciliation SET compared_to = NULL WHERE pg_temp.names(compared_to, :'login');
UPDATE b2copy_audit SET detail = NULL, note = '[erased]'
WHERE subject IN (SELECT key FROM erased WHERE has_ended) OR pg_temp.names(detail, :'login');
UPDATE b2copy_audit SET subject = 'identity [erased]', detail = NULL, note = '[erased]'
WHERE subject = 'identity ' || :'platform' || '/' || :'login';
UPDATE b2copy_approvals
SET arguments = NULL, note = '[erased]', decided_note = CASE WHEN decided_note IS NOT NULL THEN '[erased]' END
WHERE subject IN (SELECT key FROM erased WHERE has_ended) OR pg_temp.names(arguments, :'login');

SELECT
    count(*) FILTER (WHERE has_ended) AS erased,
    count(*) FILTER (WHERE NOT has_ended)
    + (SELECT count(*) FROM b2copy_requests WHERE pg_temp.names(payload, :'login')) AS still_open
FROM erased;
DROP TABLE erased;
DROP FUNCTION pg_temp.names;
