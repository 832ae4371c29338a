// The service of a quickstart with Dapr's JavaScript SDK: its server and the client in it.

import { DaprServer, HttpMethod } from '@dapr/dapr';

const { APP_ID, APP_PORT, DAPR_HTTP_PORT, NEXT } = process.env;

const server = new DaprServer({
  serverHost: '127.0.0.1',
  serverPort: APP_PORT,
  clientOptions: { daprHost: '127.0.0.1', daprPort: DAPR_HTTP_PORT },
});
const { invoker, pubsub, state } = server.client;

await server.invoker.listen(
  'checkout',
  async ({ body }) => {
    const order = JSON.parse(body);
    const answer = await invoker.invoke(NEXT, 'orders', HttpMethod.POST, order);
    await pubsub.publish('pubsub', 'orders', order);
    return answer;
  },
  { method: HttpMethod.POST },
);

await server.invoker.listen(
  'orders',
  async ({ body }) => {
    const order = JSON.parse(body);
    await state.save('statestore', [{ key: order.orderId, value: order }]);
    const saved = await state.get('statestore', order.orderId);
    return { ...saved, savedBy: APP_ID };
  },
  { method: HttpMethod.POST },
);

await server.pubsub.subscribe('pubsub', 'orders', async (order) => {
  await state.save('statestore', [{ key: `received-${order.orderId}`, value: order }]);
});

await server.start();
// Node closes a connection after 5 idle seconds, which a sidecar may be about to use.
server.daprServer.serverInstance.keepAliveTimeout = 120_000;
