#!/bin/sh
# The PostgreSQL image runs this once, on an empty data folder: the roles, and their passwords from files.
set -eu
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f /deploy/roles.sql
for role in owner worker enqueue crm viewer; do
  # psql reads the file itself: every user of the host can see the arguments of a process.
  psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<SQL
\\set password \`cat /run/secrets/role_$role\`
ALTER ROLE b2copy_$role PASSWORD :'password';
SQL
done
# Over the network: TLS and a password, or nothing.
cat > "$PGDATA/pg_hba.conf" <<HBA
local   all all                   peer
hostssl all b2copy_owner,b2copy_worker,b2copy_enqueue,b2copy_crm,b2copy_viewer all scram-sha-256
HBA
