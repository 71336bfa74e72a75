// Publishes an order, consumes it, and keeps a total with compare-and-swap.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

// keepCase: without it the loader renames fields, and drops silently what it does not know, such as idempotency_key.
const definition = protoLoader.loadSync(
  ["windshift/events/v1alpha1/service.proto", "windshift/state/v1alpha1/service.proto"],
  { includeDirs: [path("../../../proto")], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true },
);
const { windshift } = grpc.loadPackageDefinition(definition);
const details = new protobuf.Root().loadSync(
  [path("../../../proto/google/rpc/status.proto"), path("../../../proto/google/rpc/error_details.proto")],
  { keepCase: true },
);
const Status = details.lookupType("google.rpc.Status");
const ErrorInfo = details.lookupType("google.rpc.ErrorInfo");
const Order = protobuf.loadSync(path("../proto/shop/v1/order.proto")).lookupType("shop.v1.OrderPlaced");

const pack = (order) => ({ type_url: "type.googleapis.com/shop.v1.OrderPlaced", value: Order.encode(order).finish() });

// For several servers: a DNS name with all addresses, or "ipv4:10.0.0.1:8080,10.0.0.2:8080".
const address = process.env.WINDSHIFT_ADDRESS;

function credentials() {
  const { WINDSHIFT_TLS_CA: ca, WINDSHIFT_TOKEN: token } = process.env;
  if (!ca) return grpc.credentials.createInsecure();
  const tls = grpc.credentials.createSsl(readFileSync(ca));
  if (!token) return tls;
  const authorized = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set("authorization", `Bearer ${token}`);
    done(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(tls, authorized);
}

const options = {
  "grpc.service_config": readFileSync(path("../service-config.json"), "utf8"),
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_receive_message_length": 16 * 1024 * 1024,
};

// A unary call with a deadline, as a promise.
const call = (client, method, request) =>
  new Promise((resolve, reject) => {
    const deadline = new Date(Date.now() + 10_000);
    client[method](request, { deadline }, (error, response) => (error ? reject(error) : resolve(response)));
  });

// What programs decide by: the reason of an error, and its metadata.
function reasonOf(error) {
  const [packed] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!packed) return { reason: "", metadata: {} };
  const found = Status.decode(packed).details.find((each) => each.type_url.endsWith("/google.rpc.ErrorInfo"));
  return found ? ErrorInfo.decode(found.value) : { reason: "", metadata: {} };
}

async function publish(events) {
  await call(events, "EnsureStream", { name: "shop-node", subjects: { subjects: ["shop-node.>"] } });
  await call(events, "EnsureConsumer", { stream: "shop-node", name: "billing", from: { start: true } });
  const order = {
    subject: "shop-node.placed",
    data: pack({ id: "A-17", cents: 3490 }),
    idempotency_key: `order-${randomUUID()}`,
  };
  for (let turn = 0; turn < 2; turn++) { // the same key stores it once, however often it is repeated
    const receipt = await call(events, "Publish", order);
    console.log(`stored as event ${receipt.id}, duplicate: ${receipt.duplicate}`);
  }
}

// Handles one event. A worker goes on, and opens another call when this one breaks.
function consume(events) {
  return new Promise((resolve, reject) => {
    const stream = events.Consume();
    stream.on("error", reject);
    stream.on("end", resolve);
    stream.on("data", ({ event, ack_confirmation }) => {
      if (event) {
        const order = Order.decode(event.data.value);
        console.log(`order ${order.id} costs ${order.cents}, attempt ${event.delivery_attempt}`);
        stream.write({ ack: { ids: [event.id] } });
      } else if (ack_confirmation) {
        console.log(`acknowledged [${ack_confirmation.ids.join(" ")}]`);
        stream.end();
      }
    });
    stream.write({ subscribe: { stream: "shop-node", consumer: "billing", max_processing_events: 50 } });
  });
}

// Writes a value on top of the revision that was read, then on top of one that is not the latest.
async function keep(state) {
  const key = { store: "shop-node", key: "total" };
  await call(state, "EnsureStore", { store: key.store });
  const { revision } = await call(state, "Get", key);
  const condition = revision === "0" ? { create_only: true } : { last_revision: revision };
  const written = await call(state, "Set", { ...key, value: pack({ id: "A-17", cents: 3490 }), ...condition });
  const stale = String(BigInt(written.revision) + 1n);
  try {
    await call(state, "Set", { ...key, value: pack({ id: "A-17", cents: 0 }), last_revision: stale });
  } catch (error) {
    if (error.code !== grpc.status.ABORTED) throw error;
    const { reason, metadata } = reasonOf(error);
    console.log(`${reason}: expected ${metadata.expected}, actual ${metadata.actual}`);
  }
}

const events = new windshift.events.v1alpha1.EventsService(address, credentials(), options);
const state = new windshift.state.v1alpha1.StateService(address, credentials(), options);
try {
  await publish(events);
  await consume(events);
  await keep(state);
} catch (error) {
  console.error(error.message, reasonOf(error).reason);
  process.exitCode = 1;
} finally {
  events.close();
  state.close();
}
