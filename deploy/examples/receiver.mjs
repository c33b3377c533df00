// Receive notices in Node, without any package.  node receiver.mjs PORT SECRET_FILE
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

const LIMIT = 1024 * 1024; // bytes of a body; a notice has less
const [port, secretFile] = process.argv.slice(2);
const secret = Buffer.from(readFileSync(secretFile, "ascii").trim().split(/\s/)[0].replace("whsec_", ""), "base64");

function genuine(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": at, "webhook-signature": signatures = "" } = headers;
  if (!(Math.abs(Date.now() / 1000 - Number(at)) < 300)) return false; // five minutes, as a replay would be older
  const expected = createHmac("sha256", secret).update(`${id}.${at}.`).update(body).digest();
  return signatures.split(" ").some((one) => {
    const given = Buffer.from(one.replace(/^v1,/, ""), "base64");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
}

async function receive(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) { // it throws if the sender goes away
    parts.push(part);
    if ((size += part.length) > LIMIT) return 413;
  }
  const body = Buffer.concat(parts); // these bytes are signed: verify them, then parse
  if (!genuine(request.headers, body)) return 401;
  const { type, data } = JSON.parse(body);
  if (!type.startsWith("operation.")) return 204; // of `b2copy-sync webhook test`, for instance
  // Here: one transaction that stores the state if data.sequence is higher than the stored one, and pays nothing if
  // data.payload.account_login is not the account of the withdrawal. Then answer 2xx.
  console.log(JSON.stringify([type, data.key, data.state, data.sequence]));
  return 204;
}

createServer(async (request, response) => {
  let status = 500; // an error of one request must not end the process; after it the notice comes again
  try {
    status = await receive(request);
  } catch (error) {
    console.error(error);
  }
  response.writeHead(status, { Connection: "close" }).end();
}).listen(Number(port), "127.0.0.1");
