// An actor: `Counter/<id>` counts its calls, and the ticks of its reminder. The pods of this Deployment host many actors, each
// in exactly one pod at a time. The sidecar calls an actor one call after the other, so no lock is needed.
'use strict';

const http = require('node:http');
const os = require('node:os');
const { sidecar, readJson, reply, serve } = require('./sidecar.js');

const port = Number(process.env.APP_PORT || 3000);
const TYPE = 'Counter';

// Actors that this pod hosts. State that must survive is in the state store.
const active = new Map();

const pathOf = (id) => `/actors/${TYPE}/${encodeURIComponent(id)}`;
const stateOf = (id) => `${pathOf(id)}/state`;

async function load(id) {
  if (!active.has(id)) {
    active.set(id, (await sidecar('GET', `${stateOf(id)}/count`)) ?? 0);
    console.log(`${TYPE}/${id} lives here now, with count ${active.get(id)}`);
  }
  return active.get(id);
}

async function increment(id) {
  const count = (await load(id)) + 1;
  await sidecar('POST', stateOf(id), [{ operation: 'upsert', request: { key: 'count', value: count } }]);
  active.set(id, count);
  return count;
}

async function call(id, method, request, response) {
  await readJson(request);
  const answer = (count) => reply(response, 200, { actor: `${TYPE}/${id}`, count, host: os.hostname() });
  if (method === 'increment') return answer(await increment(id));
  if (method === 'get') return answer(await load(id));
  // A reminder outlives this process and its sidecar: the scheduler stores it.
  if (method === 'start') {
    await sidecar('POST', `${pathOf(id)}/reminders/tick`, { dueTime: '0s', period: '1s' });
    return answer(await load(id));
  }
  if (method === 'stop') {
    await sidecar('DELETE', `${pathOf(id)}/reminders/tick`);
    return answer(await load(id));
  }
  return reply(response, 404, { message: `${TYPE} has no method ${method}` });
}

serve(http, port, async (request, response, url) => {
  const route = `${request.method} ${url.pathname}`;
  // The sidecar reads it at start and registers these entities with placement.
  if (route === 'GET /dapr/config') {
    return reply(response, 200, { entities: [TYPE], actorIdleTimeout: '1h', drainRebalancedActors: true });
  }
  // The sidecar probes it: a host that does not answer loses its actors.
  if (route === 'GET /healthz') return reply(response, 200);
  const invoked = /^PUT \/actors\/Counter\/([^/]+)\/method\/([^/]+)$/.exec(route);
  if (invoked) return call(decodeURIComponent(invoked[1]), invoked[2], request, response);
  const reminded = /^PUT \/actors\/Counter\/([^/]+)\/method\/remind\/tick$/.exec(route);
  if (reminded) {
    await readJson(request);
    await increment(decodeURIComponent(reminded[1]));
    return reply(response, 200);
  }
  // The actor was idle, or moves to another pod.
  const deactivated = /^DELETE \/actors\/Counter\/([^/]+)$/.exec(route);
  if (deactivated) {
    active.delete(decodeURIComponent(deactivated[1]));
    return reply(response, 200);
  }
  return reply(response, 404, { message: `nothing here: ${route}` });
});
