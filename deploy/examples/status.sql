-- What became of it. Instants are ms since the epoch. A row that could not be taken is `message:request-<its id>`.
SELECT key, state, wait_reason, failure_reason, server_message FROM b2copy_status WHERE key = 'fees.process:W1';
