// Receive notices in Node, without any package.  node receiver.mjs PORT SECRET_FILE
import { createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";

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

createServer(async (request, response) => {
  const parts = [];
  for await (const part of request) parts.push(part);
  const body = Buffer.concat(parts); // these bytes are signed: verify them, then parse
  if (!genuine(request.headers, body)) return response.writeHead(401).end();
  const { type, data } = JSON.parse(body);
  // Here: one transaction that stores the state if data.sequence is higher than the stored one. Then answer 2xx.
  console.log(JSON.stringify([type, data.key, data.state, data.sequence]));
  response.writeHead(204).end();
}).listen(Number(port), "127.0.0.1");
