// The application of the upgrade test that has jobs, and notes each delivery.
//
// POST /once   {prefix, count, first, step}: jobs that fire once, `first + i * step` ms from now.
// POST /every  {name, period}: a job that fires each `period` ms.
// POST /remind {}: an actor of the sample has a reminder of each second, whose ticks it counts.
// GET /        all jobs, when each was asked for, was due and was delivered; the ticks; the time.
// GET /missing the names of jobs that are yet to fire, and that the scheduler does not have.
'use strict';

const http = require('node:http');

const JOBS = 'http://127.0.0.1:3500/v1.0-alpha1/jobs/';
const ACTOR = 'http://127.0.0.1:3500/v1.0/actors/Counter/jobs/method/';
const TIMEOUT_MS = 30000;

const jobs = new Map();

async function schedule(name, job, body) {
  const headers = { 'content-type': 'application/json' };
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  jobs.set(name, { ...job, delivered: [] });
  const answer = await fetch(JOBS + name, { method: 'POST', headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${await answer.text()}`);
}

async function once({ prefix, count, first, step }) {
  const one = (number) => {
    const [asked, wait] = [Date.now(), first + number * step];
    return schedule(`${prefix}-${number}`, { asked, due: asked + wait }, { dueTime: `${wait}ms`, data: {} });
  };
  await Promise.all(Array.from({ length: count }, (_, number) => one(number)));
}

async function every({ name, period }) {
  const asked = Date.now();
  await schedule(name, { asked, period }, { schedule: `@every ${period}ms`, data: {} });
}

async function actor(method) {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  const answer = await fetch(ACTOR + method, { method: 'PUT', signal });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method}: ${answer.status} ${text}`);
  return JSON.parse(text).count;
}

async function report() {
  const now = Date.now();
  const ticks = await actor('get');
  return { now, ticks, jobs: Object.fromEntries(jobs) };
}

async function missing() {
  const waiting = [...jobs].filter(([, job]) => job.period || job.due > Date.now() + 60000);
  const found = await Promise.all(waiting.map(async ([name]) => {
    const answer = await fetch(JOBS + name, { signal: AbortSignal.timeout(TIMEOUT_MS) });
    return answer.ok ? [] : [`${name}: ${answer.status} ${await answer.text()}`];
  }));
  return found.flat();
}

async function body(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  return JSON.parse(text);
}

const routes = {
  'POST /once': async (request) => once(await body(request)),
  'POST /every': async (request) => every(await body(request)),
  'POST /remind': () => actor('start'),
  'GET /': report,
  'GET /missing': missing,
};

http.createServer(async (request, response) => {
  const [, name] = /^\/job\/(.+)$/.exec(request.url) ?? [];
  if (name) {
    jobs.get(name)?.delivered.push(Date.now());
    return response.end('{}');
  }
  const route = routes[`${request.method} ${request.url}`];
  if (!route) {
    response.statusCode = 404; // what the sidecar asks of every application
    return response.end();
  }
  try {
    return response.end(JSON.stringify((await route(request)) ?? {}));
  } catch (error) {
    response.statusCode = 500;
    return response.end(`${error}`);
  }
}).listen(3000)
  // Node closes a connection after 5 idle seconds, which a sidecar may be about to use.
  .keepAliveTimeout = 120_000;
