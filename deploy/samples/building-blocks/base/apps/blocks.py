"""Every building block of Dapr, as an application sees it: HTTP requests to its own sidecar, and requests that the
sidecar makes. `POST /use/<name>` runs one of USES with the fields of the body; `GET /heard` says what the sidecar
brought. A workflow is written with Dapr's SDK, everything else with the standard library."""

import base64
import collections
import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

SIDECAR = f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}"
TIMEOUT_SECONDS = 20
MAX_BODY = 1 << 20
# A caller that tries less often than this sees an error of the flaky operations.
TRIES = 3


def ask(method, path, body=None, headers=None):
    """A request to the sidecar: its status and its body. Bytes are sent as they are, everything else as JSON."""
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    request = urllib.request.Request(SIDECAR + path, data=data, method=method, headers=headers or {})
    request.add_header("content-type", "application/json")
    if token := os.environ.get("DAPR_API_TOKEN"):
        request.add_header("dapr-api-token", token)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def encrypt(component, key, text):
    headers = {"dapr-key-name": key, "dapr-key-wrap-algorithm": "A256KW"}
    status, body = ask("PUT", f"/v1.0-alpha1/crypto/{component}/encrypt", text.encode(), headers)
    return status, base64.b64encode(body) if status == 200 else body


def decrypt(component, ciphertext):
    return ask("PUT", f"/v1.0-alpha1/crypto/{component}/decrypt", base64.b64decode(ciphertext))


# What an application asks of its sidecar, one building block after the other.
USES = {
    "invoke": lambda app, method: ask("POST", f"/v1.0/invoke/{app}/method/{method}", {}),
    "save": lambda component, key, value: ask("POST", f"/v1.0/state/{component}", [{"key": key, "value": value}]),
    "load": lambda component, key: ask("GET", f"/v1.0/state/{component}/{quote(key)}"),
    "publish": lambda component, topic, data: ask("POST", f"/v1.0/publish/{component}/{topic}", data),
    "bind": lambda component, operation, metadata, data=None: ask(
        "POST", f"/v1.0/bindings/{component}", {"operation": operation, "metadata": metadata, "data": data}
    ),
    "act": lambda type, id, method: ask("PUT", f"/v1.0/actors/{type}/{id}/method/{method}"),
    "secret": lambda component, name: ask("GET", f"/v1.0/secrets/{component}/{name}"),
    "configuration": lambda component, key: ask("GET", f"/v1.0/configuration/{component}?key={key}"),
    "subscribe": lambda component, key: ask("GET", f"/v1.0/configuration/{component}/subscribe?key={key}"),
    "lock": lambda component, resource, owner: ask(
        "POST",
        f"/v1.0-alpha1/lock/{component}",
        {"resourceId": resource, "lockOwner": owner, "expiryInSeconds": 60},
    ),
    "unlock": lambda component, resource, owner: ask(
        "POST", f"/v1.0-alpha1/unlock/{component}", {"resourceId": resource, "lockOwner": owner}
    ),
    "encrypt": encrypt,
    "decrypt": decrypt,
    "schedule": lambda name, due: ask(
        "POST",
        f"/v1.0-alpha1/jobs/{name}",
        {"dueTime": due, "failurePolicy": {"constant": {"interval": "0.1s", "maxRetries": TRIES}}},
    ),
    "start": lambda workflow, id: ask("POST", f"/v1.0/workflows/dapr/{workflow}/start?instanceID={id}", "tour"),
    "status": lambda id: ask("GET", f"/v1.0/workflows/dapr/{id}"),
    "metadata": lambda: ask("GET", "/v1.0/metadata"),
}

# What the sidecar brought, in order; and how often each flaky operation was tried.
heard = collections.defaultdict(list)
tries = collections.Counter()
lock = threading.Lock()


def flaky(name):
    """Works once in `TRIES` tries."""
    with lock:
        tries[name] += 1
        if tries[name] < TRIES:
            return 500, {"message": "not yet"}
        return 200, {"tries": tries.pop(name)}


def hear(kind, what):
    with lock:
        heard[kind].append(what)


def actor(type, id, method):
    """An actor: counts its calls in its state."""
    if method == "flaky":
        return flaky(f"{type}/{id}")
    state = f"/v1.0/actors/{type}/{id}/state"
    status, body = ask("GET", f"{state}/count")
    count = 1 + (json.loads(body) if status == 200 and body else 0)
    status, body = ask("POST", state, [{"operation": "upsert", "request": {"key": "count", "value": count}}])
    return (200, {"count": count}) if status == 204 else (500, body.decode(errors="replace"))


def job(name):
    status, body = flaky(f"job {name}") if name.startswith("flaky") else (200, {})
    hear("jobs", {"name": name, "status": status})
    return status, body


def event(topic, body):
    """An event of a topic, as a CloudEvent."""
    status, _ = flaky(f"event {body['data']}") if topic == "flaky" else (200, {})
    hear("events", {"topic": topic, "data": body["data"], "status": status})
    return status, {}


def use(name, fields):
    status, body = USES[name](**fields)
    return 200, {"status": status, "body": body.decode(errors="replace")}


def route(method, path, body):
    """Status and body of the answer to a request."""
    if method == "POST" and path.startswith("/use/"):
        return use(path.removeprefix("/use/"), body or {})
    if found := re.fullmatch(r"/actors/(\w+)/([\w-]+)(?:/method/(\w+))?", path):
        return (200, {}) if method == "DELETE" else actor(*found.groups())
    if method == "POST" and (found := re.fullmatch(r"/events/(\w+)", path)):
        return event(found[1], body)
    if method == "POST" and (found := re.fullmatch(r"/job/([\w-]+)", path)):
        return job(found[1])
    if method == "POST" and (found := re.fullmatch(r"/configuration/([\w-]+)/([\w-]+)", path)):
        hear("configuration", {"component": found[1], "value": body["items"][found[2]]["value"]})
        return 200, {}
    if method == "POST" and path.startswith("/ticks/"):
        hear("ticks", path.removeprefix("/ticks/"))
        return 200, {}
    match (method, path):
        case ("GET", "/healthz"):
            return 200, {}
        case ("GET", "/heard"):
            with lock:
                return 200, dict(heard)
        case ("GET", "/dapr/config"):
            return 200, {"entities": ["Tally", "Flaky"]}
        case ("POST", "/greeting"):
            return 200, {"greeting": f"hello from {os.environ['NAMESPACE']}"}
        case ("POST", "/flaky"):
            return flaky("greeting")
        case ("POST", "/private"):
            return 200, {"message": "nobody may read this"}
        case ("OPTIONS", _) if path.startswith("/ticks/"):
            return 200, {}
    return 404, {"message": f"nothing here: {method} {path}"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def read(self, size):
        if size > MAX_BODY:
            raise ValueError("body too large")
        return self.rfile.read(size)

    def read_chunks(self):
        text = b""
        while size := int(self.rfile.readline(MAX_BODY), 16):
            text += self.read(size)
            self.rfile.readline(MAX_BODY)
        self.rfile.readline(MAX_BODY)
        return text

    def answer(self):
        try:
            chunked = self.headers.get("transfer-encoding") == "chunked"
            text = self.read_chunks() if chunked else self.read(int(self.headers.get("content-length") or 0))
            status, body = route(self.command, self.path.split("?")[0], json.loads(text) if text else None)
        except (KeyError, TypeError, ValueError, OSError) as error:
            status, body = 400, {"message": f"{type(error).__name__}: {error}"}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = answer

    def log_message(self, format, *args):
        if self.path != "/healthz":
            print(format % args, flush=True)


def workflow_runtime():
    """The workflow `greet`: an activity that fails at first, and one that shouts what it made."""
    from dapr.ext.workflow import RetryPolicy, WorkflowRuntime
    from datetime import timedelta

    runtime = WorkflowRuntime("127.0.0.1", os.environ.get("DAPR_GRPC_PORT", "50001"))

    @runtime.activity(name="greeting")
    def greeting(context, name):
        status, answer = flaky(f"workflow {context.workflow_id}")
        if status != 200:
            raise RuntimeError(answer["message"])
        return f"hello {name}"

    @runtime.activity(name="shout")
    def shout(_, text):
        return text.upper()

    @runtime.workflow(name="greet")
    def greet(context, name):
        policy = RetryPolicy(first_retry_interval=timedelta(milliseconds=100), max_number_of_attempts=TRIES)
        text = yield context.call_activity(greeting, input=name, retry_policy=policy)
        shouted = yield context.call_activity(shout, input=text)
        return shouted

    return runtime


def main():
    server = ThreadingHTTPServer(("", int(os.environ.get("APP_PORT", "3000"))), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    runtime = workflow_runtime() if os.environ.get("WORKFLOWS") else None
    if runtime:
        runtime.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    if runtime:
        runtime.shutdown()
    server.shutdown()


if __name__ == "__main__":
    main()
