// What a client written with nostr-tools sees of a relay: node client.js ws://HOST:PORT
// Says a line for each thing that worked; ends with an error at the first that did not.
import assert from "node:assert/strict";
import { nip77 } from "nostr-tools";
import { finalizeEvent, generateSecretKey, getPublicKey } from "nostr-tools/pure";
import { Relay, useWebSocketImplementation } from "nostr-tools/relay";

// Older versions of node have none.
useWebSocketImplementation(globalThis.WebSocket ?? (await import("ws")).default);

const url = process.argv[2];
const key = generateSecretKey();
const stranger = generateSecretKey();
const me = getPublicKey(key);
const relay = await Relay.connect(url);

const sign = (kind, created_at, content, tags = [], by = key) =>
  finalizeEvent({ kind, created_at, content, tags }, by);
const note = (created_at) => sign(1, created_at, `note of ${created_at}`, [["t", "water"]]);

/// What is stored, until EOSE; or the reason why the relay refuses.
const query = (filters, on = relay) =>
  new Promise((resolve, reject) => {
    const events = [];
    const subscription = on.subscribe(filters, {
      onevent: (event) => events.push(event),
      oneose: () => {
        resolve(events);
        subscription.close();
      },
      onclose: (reason) => reject(new Error(reason)),
      eoseTimeout: 30_000,
    });
  });
const ids = (events) => events.map((event) => event.id);

const notes = [1_000, 1_001, 1_002, 1_003].map(note);
for (const event of notes) await relay.publish(event);
assert.match(await relay.publish(notes[0]), /^duplicate: /);
await relay.publish(sign(5, 2_000, "", [["e", notes[0].id]]));
await assert.rejects(relay.publish(notes[0]), /^Error: blocked: /);
console.log("publishes");

const mine = { authors: [me], kinds: [1] };
assert.deepEqual(ids(await query([mine])), ids([notes[3], notes[2], notes[1]]));
assert.deepEqual(ids(await query([{ ...mine, "#t": ["water"], limit: 1 }])), [notes[3].id]);
assert.equal(await relay.count([mine], {}), 3);
console.log("queries");

const live = note(3_000);
await new Promise((resolve, reject) => {
  const subscription = relay.subscribe([{ ...mine, limit: 0 }], {
    onevent: (event) => {
      subscription.close();
      event.id === live.id ? resolve() : reject(new Error(`nobody asked for ${event.id}`));
    },
    oneose: () => relay.publish(live).catch(reject),
  });
});
console.log("subscribes");

const wrap = sign(1059, 1_000, "sealed", [["p", me]], stranger);
await relay.publish(wrap);
const inbox = [{ kinds: [1059], "#p": [me] }];
const challenged = new Promise((resolve) => {
  relay.onauth = async (template) => {
    const signed = finalizeEvent(template, key);
    resolve();
    return signed;
  };
});
await assert.rejects(query(inbox), /auth-required: /);
await challenged;
// The answer to the challenge went out first.
await relay.auth(async (template) => finalizeEvent(template, key));
assert.deepEqual(ids(await query(inbox)), [wrap.id]);
console.log("authenticates");

const onlyHere = note(1_500);
const storage = new nip77.NegentropyStorageVector();
for (const event of [notes[1], onlyHere]) storage.insert(event.created_at, event.id);
storage.seal();
const [have, need] = [[], []];
await new Promise((resolve, reject) => {
  const sync = new nip77.NegentropySync(relay, storage, mine, {
    onhave: (id) => have.push(id),
    onneed: (id) => need.push(id),
    onclose: (reason) => (reason ? reject(new Error(reason)) : resolve()),
  });
  sync.start();
});
assert.deepEqual(have, [onlyHere.id]);
assert.deepEqual(need.sort(), ids([notes[2], notes[3], live]).sort());
console.log("reconciles");

// Timers of the library would hold it up.
process.exit(0);
