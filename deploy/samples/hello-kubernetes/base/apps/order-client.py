"""Posts an order each second to the order service, by its app id, through the sidecar. Needs the standard library only."""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

ENDPOINT = os.environ.get("DAPR_HTTP_ENDPOINT") or f"http://127.0.0.1:{os.environ.get('DAPR_HTTP_PORT', '3500')}"
TARGET = os.environ.get("TARGET_APP_ID", "nodeapp")
INTERVAL_SECONDS = 1
TIMEOUT_SECONDS = 5


def post(order_id: int) -> None:
    """Sends one order; the sidecar finds the service by the header, wherever in the cluster it runs."""
    headers = {"content-type": "application/json", "dapr-app-id": TARGET}
    if token := os.environ.get("DAPR_API_TOKEN"):
        headers["dapr-api-token"] = token
    body = json.dumps({"data": {"orderId": order_id}}).encode()
    request = urllib.request.Request(f"{ENDPOINT}/neworder", data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
        pass


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    order_id = 0
    while True:
        order_id += 1
        try:
            post(order_id)
            print(f"Order {order_id} accepted", flush=True)
        except urllib.error.HTTPError as error:
            print(f"Order {order_id} refused: {error.code} {error.read().decode(errors='replace')}", flush=True)
        except OSError as error:
            # The sidecar or the service is not available.
            print(f"Order {order_id} not delivered: {error}", flush=True)
        time.sleep(INTERVAL_SECONDS)


if __name__ == "__main__":
    main()
