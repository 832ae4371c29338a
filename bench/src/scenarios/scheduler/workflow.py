"""Workflows of Dapr's Python SDK: each is a chain of activities that do nothing. Starts all of them
at once, waits until they have ended and prints one line of JSON.

Environment: DAPR_GRPC_PORT of the sidecar; WORKFLOWS and STEPS, how many and how long; LIMIT, the
seconds that all of them may take.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

from dapr.ext.workflow import DaprWorkflowClient, WorkflowRuntime, WorkflowStatus

PORT = os.environ['DAPR_GRPC_PORT']
WORKFLOWS = int(os.environ['WORKFLOWS'])
STEPS = int(os.environ['STEPS'])
LIMIT = float(os.environ['LIMIT'])
# Calls under way at once.
CALLERS = 16

runtime = WorkflowRuntime('127.0.0.1', PORT)


@runtime.activity(name='step')
def step(ctx, number):
    return number + 1


@runtime.workflow(name='chain')
def chain(ctx, steps):
    number = 0
    for _ in range(steps):
        number = yield ctx.call_activity(step, input=number)
    return number


def complete(client, instance, deadline):
    """Whether the workflow did all of its steps in time."""
    left = max(1, int(deadline - time.monotonic()))
    try:
        state = client.wait_for_workflow_completion(instance, timeout_in_seconds=left)
    except Exception as error:
        print('not complete:', error, flush=True)
        return False
    return (
        state is not None
        and state.runtime_status == WorkflowStatus.COMPLETED
        and json.loads(state.serialized_output) == STEPS
    )


runtime.start()
client = DaprWorkflowClient('127.0.0.1', PORT)
first = client.schedule_new_workflow(chain, input=STEPS)  # not measured
assert complete(client, first, time.monotonic() + LIMIT), 'the first workflow failed'

begin = time.monotonic()
deadline = begin + LIMIT
with ThreadPoolExecutor(CALLERS) as pool:
    start = lambda _: client.schedule_new_workflow(chain, input=STEPS)
    instances = list(pool.map(start, range(WORKFLOWS)))
    done = list(pool.map(lambda instance: complete(client, instance, deadline), instances))
seconds = time.monotonic() - begin
print(json.dumps({'seconds': seconds, 'completed': sum(done)}), flush=True)
runtime.shutdown()
os._exit(0)
