"""Workflows of Dapr's Python SDK: an activity, a timer of as many seconds as the input says, another
activity, an event, a last activity. Each execution of an activity adds a line to a file."""

import datetime
import os
import signal

from dapr.ext.workflow import WorkflowRuntime

runtime = WorkflowRuntime('127.0.0.1', os.environ['DAPR_GRPC_PORT'])


@runtime.activity(name='step')
def step(ctx, name):
    with open('/tmp/executions', 'a') as file:
        file.write(name + '\n')
    return name


@runtime.workflow(name='order')
def order(ctx, seconds):
    name = ctx.instance_id
    done = [(yield ctx.call_activity(step, input=name + ' begun'))]
    ctx.set_custom_status('timer')
    yield ctx.create_timer(datetime.timedelta(seconds=int(seconds)))
    done.append((yield ctx.call_activity(step, input=name + ' ripe')))
    ctx.set_custom_status('event')
    yield ctx.wait_for_external_event('approval')
    done.append((yield ctx.call_activity(step, input=name + ' approved')))
    return done


runtime.start()
signal.sigwait({signal.SIGTERM, signal.SIGINT})
runtime.shutdown()
