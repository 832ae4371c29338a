// A minimal HTTP client of the Dapr sidecar.
'use strict';

// The injector sets these variables in every container of the pod.
const endpoint = process.env.DAPR_HTTP_ENDPOINT || `http://127.0.0.1:${process.env.DAPR_HTTP_PORT || 3500}`;
const token = process.env.DAPR_API_TOKEN;

const TIMEOUT_MS = 5000;

/**
 * Calls the sidecar's HTTP API. Returns the decoded body, or `undefined` when there is none.
 * Throws when the sidecar cannot be reached or answers with an error.
 */
async function sidecar(method, path, body) {
  const headers = { 'content-type': 'application/json' };
  if (token) headers['dapr-api-token'] = token;
  const response = await fetch(`${endpoint}/v1.0${path}`, {
    method,
    headers,
    body: body === undefined ? undefined : JSON.stringify(body),
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
  return text === '' ? undefined : JSON.parse(text);
}

/** The body of a request, decoded; throws on more than 1 MiB or what is no JSON. */
async function readJson(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > 1 << 20) throw new Error('body too large');
    chunks.push(chunk);
  }
  return size === 0 ? undefined : JSON.parse(Buffer.concat(chunks).toString('utf8'));
}

/** Answers with JSON, or with an empty body. */
function reply(response, status, body) {
  response.writeHead(status, body === undefined ? {} : { 'content-type': 'application/json' });
  response.end(body === undefined ? undefined : JSON.stringify(body));
}

/** Serves `handle(request, response, url)` until the pod is told to stop. */
function serve(http, port, handle) {
  const server = http.createServer((request, response) => {
    const url = new URL(request.url, 'http://app');
    handle(request, response, url).catch((error) => {
      console.error(`${request.method} ${url.pathname}: ${error.message}`);
      if (response.headersSent) response.destroy();
      else reply(response, 500, { message: error.message });
    });
  });
  // Node closes a connection after 5 idle seconds, which a sidecar may be about to use.
  server.keepAliveTimeout = 120_000;
  server.listen(port, () => console.log(`Listening on port ${port}`));
  for (const signal of ['SIGTERM', 'SIGINT']) {
    process.on(signal, () => {
      server.keepAliveTimeout = 1; // of requests that are being answered
      server.close(() => process.exit(0));
      server.closeIdleConnections();
    });
  }
}

module.exports = { endpoint, sidecar, readJson, reply, serve };
