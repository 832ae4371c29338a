"""A workflow of Dapr's Python SDK: an activity, a timer, an external event, a child workflow, an
activity that is retried, and a last one. Each execution of an activity adds a line to a file.

Environment: DAPR_GRPC_PORT of the sidecar; EXECUTIONS, the file.
"""

import datetime
import os
import signal
import threading

from dapr.ext.workflow import RetryPolicy, WorkflowRuntime

EXECUTIONS = os.environ['EXECUTIONS']
WRITING = threading.Lock()

runtime = WorkflowRuntime('127.0.0.1', os.environ['DAPR_GRPC_PORT'])


def executed(name):
    """Records one execution; how many there are by now."""
    with WRITING:
        with open(EXECUTIONS, 'a') as file:
            file.write(name + '\n')
        with open(EXECUTIONS) as file:
            return file.read().split('\n').count(name)


@runtime.activity(name='step')
def step(ctx, name):
    executed(name)
    return name + ' done'


@runtime.activity(name='flaky')
def flaky(ctx, name):
    if executed(name) < 3:
        raise RuntimeError('not yet')
    return name + ' done'


@runtime.workflow(name='child')
def child(ctx, name):
    yield ctx.create_timer(datetime.timedelta(seconds=1))
    result = yield ctx.call_activity(step, input=name)
    return result


@runtime.workflow(name='order')
def order(ctx, _):
    results = []
    results.append((yield ctx.call_activity(step, input='first')))
    ctx.set_custom_status('timer')
    yield ctx.create_timer(datetime.timedelta(seconds=3))
    ctx.set_custom_status('event')
    results.append((yield ctx.wait_for_external_event('approval')))
    ctx.set_custom_status('child')
    results.append((yield ctx.call_child_workflow(child, input='inner')))
    ctx.set_custom_status('retries')
    policy = RetryPolicy(
        first_retry_interval=datetime.timedelta(seconds=1), max_number_of_attempts=5
    )
    results.append((yield ctx.call_activity(flaky, input='flaky', retry_policy=policy)))
    results.append((yield ctx.call_activity(step, input='last')))
    return results


runtime.start()
signal.sigwait({signal.SIGTERM, signal.SIGINT})
runtime.shutdown()
