-- Erase what is stored about one person's MT login: run it as b2copy_owner, once for each login of that person.
--
--   psql "$OWNER_URL" --single-transaction -v ON_ERROR_STOP=1 -v platform=1 -v login=123456 \
--     -f deploy/postgres/erase_person.sql
--
-- These stay, and `still_open` counts them: operations that have not ended, because B2COPY may be doing them; failed
-- ones whose outcome nobody knows or has decided; parents of open or failed operations; and requests that no worker has
-- taken. Run it again when they have ended or are decided. What people decided stays in the audit, with who decided
-- and when; its reason, its payloads and the login of an identity go. An open proposal that names the login is closed.
--
-- What names a platform is erased only if it names this one. Fee runs name none: for them the login alone counts.

CREATE FUNCTION pg_temp.names(content text, login text, platform text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    -- JSON may stand in JSON, with a backslash before each quotation mark; an account may be a number there. The number
    -- of a withdrawal, a client, a platform or a currency is no login, although it may have the same digits.
    SELECT COALESCE(
        regexp_replace(
            translate(content, '\ ', ''),
            '"(id|request_?id|client_?id|crm_?id|account_?id|payment_?account|(investment_?)?platform(_?id)?'
            || '|product_?currency_?id|reopens)":("[^"]*"|[0-9]+)',
            '', 'gi'
        ) LIKE ANY (ARRAY['%"' || l || '"%', '%:' || l || ',%', '%:' || l || '}%'])
        AND (
            translate(content, '\ ', '') !~* '"(investment_?)?platform(_?id)?":"?[0-9]'
            OR translate(content, '\ ', '') ~* ('"(investment_?)?platform(_?id)?":"?' || platform || '[^0-9]')
        ), false
    )
    FROM (SELECT replace(replace(replace(translate(login, ' ', ''), '\', ''), '%', '\%'), '_', '\_') AS l) AS escaped
$$;

CREATE TEMPORARY TABLE erased AS
SELECT
    id,
    key,
    ended_at IS NOT NULL
    AND NOT (
        state = 'failed'
        AND (
            outcome_unknown
            OR failure_reason = 'unresolved'
            OR (phase = 'poll' AND failure_reason IN ('bad_payload', 'exhausted', 'expired', 'internal', 'unresolved'))
        )
    )
    AND NOT EXISTS (
        SELECT 1 FROM b2copy_operations AS child
        WHERE child.parent = o.key AND (child.due_at IS NOT NULL OR child.state = 'failed')
    ) AS may_go
FROM b2copy_operations AS o
WHERE pg_temp.names(payload, :'login', :'platform')
OR pg_temp.names(result, :'login', :'platform');

-- Its attempts go with it. What a person has replayed in the meantime stays.
DELETE FROM b2copy_operations WHERE id IN (SELECT id FROM erased WHERE may_go) AND ended_at IS NOT NULL;
UPDATE erased SET may_go = false WHERE id IN (SELECT id FROM b2copy_operations);
DELETE FROM b2copy_identities WHERE platform = :'platform' AND login = :'login';
DELETE FROM b2copy_reconciliation_accounts WHERE platform = :'platform' AND login = :'login';
DELETE FROM b2copy_reconciliation_differences WHERE platform = :'platform' AND login = :'login';
UPDATE b2copy_reconciliation SET anchor = NULL WHERE pg_temp.names(anchor, :'login', :'platform');
UPDATE b2copy_reconciliation SET compared_to = NULL WHERE pg_temp.names(compared_to, :'login', :'platform');
UPDATE b2copy_audit SET detail = NULL, note = '[erased]'
WHERE subject IN (SELECT key FROM erased WHERE may_go) OR pg_temp.names(detail, :'login', :'platform');
UPDATE b2copy_audit SET subject = 'identity [erased]', detail = NULL, note = '[erased]'
WHERE subject = 'identity ' || :'platform' || '/' || :'login';
UPDATE b2copy_approvals
SET
    arguments = NULL,
    note = '[erased]',
    decided_note = CASE WHEN decision IS NULL OR decided_note IS NOT NULL THEN '[erased]' END,
    decided_by = CASE WHEN decision IS NULL THEN 'b2copy-sync' ELSE decided_by END,
    decided_at = CASE WHEN decision IS NULL THEN extract(EPOCH FROM now()) * 1000 ELSE decided_at END,
    decision = COALESCE(decision, 'changed')
WHERE subject IN (SELECT key FROM erased WHERE may_go) OR pg_temp.names(arguments, :'login', :'platform');

SELECT
    count(*) FILTER (WHERE may_go) AS erased,
    count(*) FILTER (WHERE NOT may_go)
    + (SELECT count(*) FROM b2copy_requests WHERE pg_temp.names(payload, :'login', :'platform')) AS still_open
FROM erased;
DROP TABLE erased;
DROP FUNCTION pg_temp.names;
