// Transactions of a CRM in Node: each line of stdin is the SQL of one as a JSON string. Answers with one line each.
//   CRM_DATABASE_URL=postgresql://... with the package pg, or sqlite:/path with node:sqlite (Node 22) or the program sqlite3
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
const require = createRequire(import.meta.url);
const url = process.env.CRM_DATABASE_URL;

async function open() {
  if (!url.startsWith("sqlite:")) {
    const { Client } = require("pg");
    const crm = new Client({ connectionString: url });
    await crm.connect();
    return (sql) => crm.query(sql);
  }
  const file = url.slice("sqlite:".length);
  try {
    const { DatabaseSync } = require("node:sqlite");
    const crm = new DatabaseSync(file);
    crm.exec("PRAGMA busy_timeout = 10000");
    return (sql) => crm.exec(sql);
  } catch (error) {
    if (error.code !== "ERR_UNKNOWN_BUILTIN_MODULE" && error.code !== "MODULE_NOT_FOUND") throw error;
    return (sql) => execFileSync("sqlite3", ["-bail", "-cmd", ".timeout 10000", file], { input: sql });
  }
}

const transact = await open();
for await (const line of createInterface({ input: process.stdin })) {
  let problem = "";
  try {
    await transact(JSON.parse(line));
  } catch (error) {
    problem = String(error.message).replaceAll("\n", " ");
  }
  process.stdout.write(problem + "\n");
}
process.exit(0); // with the connection still open
