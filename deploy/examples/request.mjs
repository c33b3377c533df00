// Request the fees of a withdrawal from Node, in the CRM's own transaction.  npm install pg
//   CRM_DATABASE_URL=postgresql://... node request.mjs W1 123456
import { createRequire } from "node:module";
const { Client } = createRequire(import.meta.url)("pg");

const [withdrawal, login] = process.argv.slice(2);
const crm = new Client({ connectionString: process.env.CRM_DATABASE_URL });
await crm.connect();
try {
  await crm.query("BEGIN");
  await crm.query("UPDATE withdrawals SET state = 'fees' WHERE id = $1", [withdrawal]);
  await crm.query("INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', $1)", [
    JSON.stringify({ account_login: login, request_id: withdrawal }),
  ]);
  await crm.query("COMMIT");
} finally {
  await crm.end(); // without COMMIT, nothing was requested
}
