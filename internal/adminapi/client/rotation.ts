// A key is created, rotated with an overlap, and revoked, with an approval each time, by the
// types that openapi-typescript generates from the description of the API.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/api.js";

type Schemas = components["schemas"];

const api = required("API"); // https://dash.example/api
const password = required("PASSWORD");

function required(name: string): string {
  const value = process.env[name];
  assert(value, `${name} is not set`);
  return value;
}

const client = createClient<paths>({
  baseUrl: api,
  headers: { Cookie: `session=${required("SESSION")}`, Origin: new URL(api).origin },
});

// What an operation answers, with its problems.
interface Reply<T> {
  data?: T | undefined;
  error?: Schemas["Problem"] | undefined;
  response: Response;
}

// approved sends a request up to three times: as it is, with a factor, with the answer.
async function approved<T extends object>(
  send: (approval?: Schemas["Approval"]) => Promise<Reply<T | Schemas["Challenge"]>>,
): Promise<{ data: T; etag: string }> {
  const first = await send();
  assert.equal(first.response.status, 403);
  assert.equal(first.error?.code, "step_up_required");
  assert(first.error.factors?.includes("password"));

  const asked = await send({ factor: "password" });
  assert.equal(asked.response.status, 202);
  assert(asked.data && "factor" in asked.data && asked.data.factor === "password");
  const challenge = asked.data.id;

  const wrong = await send({ challenge, answer: "not the password" });
  assert.equal(wrong.error?.code, "wrong_answer");
  assert.equal(wrong.error.attempts_left, 4);

  const done = await send({ challenge, answer: password });
  assert.equal(done.error, undefined, done.error?.detail);
  return { data: done.data as T, etag: done.response.headers.get("ETag") ?? "" };
}

const rules = await client.GET("/v1/rules");
assert(rules.data);
const whoAmI = { "Apikey-Actor": rules.data.actor.tag };
const ability = rules.data.rules.catalog?.find((entry) => entry.scope)?.scope;
assert(ability);

const made = await approved<Schemas["KeyWithToken"]>((approval) =>
  client.POST("/v1/keys", {
    params: { header: { ...whoAmI, "Idempotency-Key": "rotation-1" } },
    body: { mode: "live", name: "Shop", abilities: [ability], ...(approval && { approval }) },
  }),
);
const { id, credential } = made.data.key;
assert.equal(made.etag, '"1"');
assert.equal(made.data.key.status, "active");

// The same request again: no second key, and no token.
const again = await client.POST("/v1/keys", {
  params: { header: { ...whoAmI, "Idempotency-Key": "rotation-1" } },
  body: { mode: "live", name: "Shop", abilities: [ability] },
});
assert(again.error?.code === "already_issued" && "key" in again.error);
assert.equal(again.error.key?.id, id);

const rotated = await approved<Schemas["KeyWithToken"]>((approval) =>
  client.POST("/v1/keys/{id}/rotate", {
    params: { path: { id }, header: { ...whoAmI, "If-Match": made.etag } },
    body: { overlap_seconds: 3600, ...(approval && { approval }) },
  }),
);
assert.notEqual(rotated.data.token, made.data.token);
const both = rotated.data.key.credentials.filter((one) => !one.ended);
assert.equal(both.length, 2);

// The answer to the rotation was lost, say: the request comes again.
const lost = await client.POST("/v1/keys/{id}/rotate", {
  params: { path: { id }, header: { ...whoAmI, "If-Match": made.etag } },
  body: { overlap_seconds: 3600 },
});
assert(lost.error?.code === "version_mismatch" && "done" in lost.error && lost.error.done);

const retired = await client.POST("/v1/keys/{id}/credentials/{credential}/retire", {
  params: { path: { id, credential }, header: whoAmI },
  body: {},
});
assert.equal(retired.response.status, 204);

await approved<never>((approval) =>
  client.POST("/v1/keys/{id}/revoke", {
    params: { path: { id }, header: whoAmI },
    body: { reason: "superseded", ...(approval && { approval }) },
  }),
);
const key = await client.GET("/v1/keys/{id}", { params: { path: { id }, header: whoAmI } });
assert.equal(key.data?.status, "revoked");
console.log(id);
