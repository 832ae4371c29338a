"""The service of a quickstart with Dapr's Python SDK: the SDK's Flask extension and its client."""

import json
import os

from dapr.clients import DaprClient
from dapr.ext.flask import DaprApp
from flask import Flask, request

app = Flask(__name__)
dapr_app = DaprApp(app)


@app.post('/checkout')
def checkout():
    order = request.data.decode()
    with DaprClient() as client:
        answer = client.invoke_method(
            os.environ['NEXT'], 'orders', order, content_type='application/json', http_verb='POST'
        )
        client.publish_event('pubsub', 'orders', order, data_content_type='application/json')
    return answer.json()


@app.post('/orders')
def orders():
    order = request.get_json()
    with DaprClient() as client:
        client.save_state('statestore', order['orderId'], json.dumps(order))
        saved = client.get_state('statestore', order['orderId']).json()
    return {**saved, 'savedBy': os.environ['APP_ID']}


@dapr_app.subscribe(pubsub='pubsub', topic='orders')
def received():
    order = request.get_json()['data']
    with DaprClient() as client:
        client.save_state('statestore', 'received-' + order['orderId'], json.dumps(order))
    return {'success': True}


app.run(host='127.0.0.1', port=int(os.environ['APP_PORT']))
