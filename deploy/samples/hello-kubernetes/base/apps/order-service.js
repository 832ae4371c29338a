// The order service: stores the last order in a state store, publishes it, and subscribes to the same topic.
// It uses its sidecar and the names of two components, no Redis client.
'use strict';

const http = require('node:http');
const { endpoint, sidecar, readJson, reply, serve } = require('./sidecar.js');

const port = Number(process.env.APP_PORT || 3000);
const stateStore = process.env.STATE_STORE_NAME || 'statestore';
const pubsub = process.env.PUBSUB_NAME || 'pubsub';
const topic = process.env.TOPIC_NAME || 'orders';

// Events from the topic. Not persisted: they show that events arrive.
const events = { received: 0, lastOrderId: null };

// Jobs of this process, by name: when they were scheduled and triggered (milliseconds since 1970).
const jobs = new Map();

async function newOrder(request, response) {
  let order;
  try {
    order = (await readJson(request))?.data;
  } catch (error) {
    return reply(response, 400, { message: `not an order: ${error.message}` });
  }
  if (order?.orderId === undefined) {
    return reply(response, 400, { message: 'not an order: data.orderId is missing' });
  }
  console.log(`Got a new order! Order ID: ${order.orderId}`);
  await sidecar('POST', `/state/${stateStore}`, [{ key: 'order', value: order }]);
  console.log(`Successfully persisted state for Order ID: ${order.orderId}`);
  // The order is stored; subscribers may receive it later.
  sidecar('POST', `/publish/${pubsub}/${topic}`, order).catch((error) =>
    console.error(`Order ${order.orderId} is stored but not published: ${error.message}`));
  return reply(response, 200);
}

async function lastOrder(response) {
  const order = await sidecar('GET', `/state/${stateStore}/order`);
  return order === undefined ? reply(response, 404, { message: 'no order yet' }) : reply(response, 200, order);
}

/** Called by the sidecar for each message of the Subscription. The body is a CloudEvent. */
async function orderEvent(request, response) {
  const event = await readJson(request);
  events.received += 1;
  events.lastOrderId = event.data.orderId;
  console.log(`Received the event of Order ID: ${events.lastOrderId}`);
  return reply(response, 200);
}

/** Calls an actor. The sidecar finds the pod that hosts it. */
async function actor(id, method, response) {
  return reply(response, 200, await sidecar('PUT', `/actors/Counter/${encodeURIComponent(id)}/method/${method}`));
}

/** Schedules a job once, for example in two seconds (`{"dueTime": "2s"}`). The API is in version 1.0-alpha1. */
async function schedule(name, request, response) {
  const { dueTime } = await readJson(request);
  jobs.set(name, { asked: Date.now(), arrived: null });
  await sidecar('POST', `-alpha1/jobs/${encodeURIComponent(name)}`, { dueTime, data: name });
  return reply(response, 200);
}

/** Called by the sidecar when the job is due. */
async function dueJob(name, request, response) {
  await readJson(request);
  jobs.set(name, { asked: null, ...jobs.get(name), arrived: Date.now() });
  console.log(`Job ${name} is due`);
  return reply(response, 200);
}

serve(http, port, async (request, response, url) => {
  const route = `${request.method} ${url.pathname}`;
  if (route === 'POST /neworder') return newOrder(request, response);
  if (route === 'GET /order') return lastOrder(response);
  if (route === 'POST /events/orders') return orderEvent(request, response);
  if (route === 'GET /events') return reply(response, 200, events);
  if (route === 'GET /ports') return reply(response, 200, { DAPR_HTTP_ENDPOINT: endpoint });
  if (route === 'GET /healthz') return reply(response, 200);
  const method = { 'POST /count': 'increment', 'GET /count': 'get', 'POST /ticks': 'start', 'DELETE /ticks': 'stop' };
  const [, action, id] = /^([A-Z]+ \/[a-z]+)\/([^/]+)$/.exec(route) ?? [];
  if (action === 'POST /jobs') return schedule(decodeURIComponent(id), request, response);
  if (action === 'GET /jobs') return reply(response, 200, jobs.get(decodeURIComponent(id)));
  if (action === 'POST /job') return dueJob(decodeURIComponent(id), request, response);
  if (method[action]) return actor(decodeURIComponent(id), method[action], response);
  return reply(response, 404, { message: `nothing here: ${route}` });
});
