// The service of a quickstart with Dapr's Java SDK: its client, behind the HTTP server of the JDK.

import com.sun.net.httpserver.HttpServer;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.domain.CloudEvent;
import io.dapr.client.domain.HttpExtension;
import io.dapr.serializer.DefaultObjectSerializer;
import io.dapr.utils.TypeRef;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;

public class App {
  private static final DefaultObjectSerializer JSON = new DefaultObjectSerializer();
  private static final TypeRef<Map<String, Object>> ORDER = new TypeRef<>() {};
  private static final DaprClient CLIENT = new DaprClientBuilder().build();

  private interface Handler {
    Object answer(byte[] body) throws IOException;
  }

  public static void main(String[] args) throws IOException {
    int port = Integer.parseInt(System.getenv("APP_PORT"));
    HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.setExecutor(Executors.newCachedThreadPool());
    handle(server, "/checkout", App::checkout);
    handle(server, "/orders", App::orders);
    handle(server, "/received", App::received);
    handle(server, "/dapr/subscribe", body -> List.of(
        Map.of("pubsubname", "pubsub", "topic", "orders", "route", "/received")));
    server.start();
  }

  private static Object checkout(byte[] body) throws IOException {
    Map<String, Object> order = JSON.deserialize(body, ORDER);
    String next = System.getenv("NEXT");
    Object answer = CLIENT.invokeMethod(next, "orders", order, HttpExtension.POST, ORDER).block();
    CLIENT.publishEvent("pubsub", "orders", order).block();
    return answer;
  }

  private static Object orders(byte[] body) throws IOException {
    Map<String, Object> order = JSON.deserialize(body, ORDER);
    String key = (String) order.get("orderId");
    CLIENT.saveState("statestore", key, order).block();
    Map<String, Object> saved =
        new HashMap<>(CLIENT.getState("statestore", key, ORDER).block().getValue());
    saved.put("savedBy", System.getenv("APP_ID"));
    return saved;
  }

  private static Object received(byte[] body) throws IOException {
    Map<?, ?> order = (Map<?, ?>) CloudEvent.deserialize(body).getData();
    CLIENT.saveState("statestore", "received-" + order.get("orderId"), order).block();
    return Map.of("status", "SUCCESS");
  }

  /** Answers JSON; a failure is an answer 500 with its text. */
  private static void handle(HttpServer server, String path, Handler handler) {
    server.createContext(path, exchange -> {
      try (exchange) {
        int status = 200;
        byte[] answer;
        try {
          answer = JSON.serialize(handler.answer(exchange.getRequestBody().readAllBytes()));
        } catch (RuntimeException | IOException failure) {
          failure.printStackTrace();
          status = 500;
          answer = failure.toString().getBytes();
        }
        exchange.getResponseHeaders().set("Content-Type", JSON.getContentType());
        exchange.sendResponseHeaders(status, answer.length);
        exchange.getResponseBody().write(answer);
      }
    });
  }
}
