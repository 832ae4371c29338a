// The client of the upgrade test: calls the order service and the actors through its sidecar, ten times a second each,
// has a job that fires each second, and counts. `GET /` returns the counts since `GET /forget`.
'use strict';

const http = require('node:http');

const PAUSE_MS = 100;
const TIMEOUT_MS = 30000;

const calls = {
  invoke: () => ['GET', '/v1.0/invoke/nodeapp/method/order'],
  actor1: () => ['PUT', '/v1.0/actors/Counter/upgrade-1/method/increment'],
  actor2: () => ['PUT', '/v1.0/actors/Counter/upgrade-2/method/increment'],
};

const fresh = (at) => ({ done: 0, failed: 0, gapMs: 0, lastDone: at, errors: [] });
const seen = {};

function note(name, failure) {
  const entry = seen[name];
  const now = Date.now();
  if (failure) {
    entry.failed += 1;
    if (entry.errors.length < 5) entry.errors.push(`${new Date(now).toISOString()} ${failure}`);
    return;
  }
  entry.gapMs = Math.max(entry.gapMs, now - entry.lastDone);
  entry.done += 1;
  entry.lastDone = now;
}

async function call(method, path) {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const answer = await fetch(`http://127.0.0.1:3500${path}`, { method, signal });
  const text = await answer.text();
  return answer.ok ? null : `${answer.status} ${text.slice(0, 400)}`;
}

async function go(name) {
  for (;;) {
    const failure = await call(...calls[name]()).catch((error) => `${error}`);
    note(name, failure);
    await new Promise((resume) => setTimeout(resume, PAUSE_MS));
  }
}

for (const name of Object.keys(calls)) {
  seen[name] = fresh(Date.now());
  go(name);
}

// The scheduler triggers it; the sidecar calls `POST /job/tick`.
async function addJob() {
  const body = JSON.stringify({ schedule: '@every 1s', data: {} });
  const headers = { 'content-type': 'application/json' };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const url = 'http://127.0.0.1:3500/v1.0-alpha1/jobs/tick';
  const answer = await fetch(url, { method: 'POST', headers, body, signal });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
}

async function insist() {
  await addJob().catch((error) => {
    console.log(`no job yet: ${error.message}`);
    setTimeout(insist, 1000);
  });
}

seen.job = fresh(Date.now());
insist();

http.createServer((request, response) => {
  if (request.url === '/job/tick') {
    note('job', null);
    return response.end('{}');
  }
  if (request.url === '/forget') {
    for (const name of Object.keys(seen)) seen[name] = fresh(seen[name].lastDone);
    return response.end('{}');
  }
  if (request.url !== '/') {
    response.statusCode = 404; // what the sidecar asks of every application
    return response.end();
  }
  const now = Date.now();
  for (const entry of Object.values(seen)) {
    // A call that hangs now counts as long as it has hung.
    entry.gapMs = Math.max(entry.gapMs, now - entry.lastDone);
  }
  return response.end(JSON.stringify(seen));
}).listen(3000)
  // Node closes a connection after 5 idle seconds, which a sidecar may be about to use.
  .keepAliveTimeout = 120_000;
