// Publishes an order, consumes it, and keeps a total with compare-and-swap.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";

import * as grpc from "@grpc/grpc-js";

import { Any } from "./gen/google/protobuf/any.js";
import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import { OrderPlaced } from "./gen/shop/v1/order.js";
import { EnsureConsumerRequest, EventsRequest, EventsServiceClient, PublishEventRequest, type EventsResponse } from "./gen/windshift/events/v1alpha1/service.js";
import { StateServiceClient } from "./gen/windshift/state/v1alpha1/service.js";

const STREAM = "shop-typescript";

function credentials(): grpc.ChannelCredentials {
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

const options: grpc.ClientOptions = {
  "grpc.service_config": readFileSync("../service-config.json", "utf8"),
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.max_receive_message_length": 16 * 1024 * 1024,
};

type Unary<Q, A> = (
  request: Q,
  metadata: grpc.Metadata,
  options: Partial<grpc.CallOptions>,
  callback: (error: grpc.ServiceError | null, response: A) => void,
) => grpc.ClientUnaryCall;

/** Calls a unary method with a deadline. */
function call<Q, A>(client: grpc.Client, method: Unary<Q, A>, request: Q): Promise<A> {
  const deadline = new Date(Date.now() + 10_000);
  return new Promise((resolve, reject) =>
    method.call(client, request, new grpc.Metadata(), { deadline }, (error, response) =>
      error ? reject(error) : resolve(response),
    ),
  );
}

/** Returns what programs decide by: the reason of an error, and its metadata. */
function infoOf(error: unknown): ErrorInfo | undefined {
  const [packed] = (error as Partial<grpc.ServiceError>).metadata?.get("grpc-status-details-bin") ?? [];
  const found =
    packed && Status.decode(packed as Buffer).details.find((each) => each.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  return found ? ErrorInfo.decode(found.value) : undefined;
}

const pack = (cents: bigint): Any => ({
  typeUrl: "type.googleapis.com/shop.v1.OrderPlaced",
  value: OrderPlaced.encode({ id: "A-17", cents }).finish(),
});

async function publish(events: EventsServiceClient): Promise<void> {
  await call(events, events.ensureStream, {
    name: STREAM,
    source: { $case: "subjects", value: { subjects: [`${STREAM}.>`] } },
  });
  const consumer = { stream: STREAM, name: "billing", from: { pointer: { $case: "start" as const, value: true } } };
  await call(events, events.ensureConsumer, EnsureConsumerRequest.fromPartial(consumer));
  const order = PublishEventRequest.fromPartial({
    subject: `${STREAM}.placed`,
    data: pack(3490n),
    idempotencyKey: `order-${randomUUID()}`,
  });
  for (let turn = 0; turn < 2; turn++) { // the same key stores it once, however often it is repeated
    const receipt = await call(events, events.publish, order);
    console.log(`stored as event ${receipt.id}, duplicate: ${receipt.duplicate}`);
  }
}

/** Handles one event. A worker goes on, and opens another call when this one breaks. */
function consume(events: EventsServiceClient): Promise<void> {
  return new Promise((resolve, reject) => {
    const stream: grpc.ClientDuplexStream<EventsRequest, EventsResponse> = events.consume();
    stream.on("error", reject);
    stream.on("end", resolve);
    stream.on("data", ({ response }: EventsResponse) => {
      if (response?.$case === "event") {
        const { id, data, deliveryAttempt } = response.value;
        const order = OrderPlaced.decode(data?.value ?? new Uint8Array());
        console.log(`order ${order.id} costs ${order.cents}, attempt ${deliveryAttempt}`);
        stream.write({ request: { $case: "ack", value: { ids: [id] } } });
      } else if (response?.$case === "ackConfirmation") {
        console.log(`acknowledged [${response.value.ids.join(" ")}]`);
        stream.end();
      }
    });
    const subscribe = { stream: STREAM, consumer: "billing", maxProcessingEvents: 50n };
    stream.write(EventsRequest.fromPartial({ request: { $case: "subscribe", value: subscribe } }));
  });
}

/** Writes a value on top of the revision that was read, then on top of one that is not the latest. */
async function keep(state: StateServiceClient): Promise<void> {
  const key = { store: STREAM, key: "total" };
  await call(state, state.ensureStore, { store: STREAM });
  const { revision } = await call(state, state.get, key);
  const condition = revision === 0n ? { createOnly: true } : { lastRevision: revision };
  const written = await call(state, state.set, { ...key, value: pack(3490n), ...condition });
  try {
    await call(state, state.set, { ...key, value: pack(0n), lastRevision: written.revision + 1n });
  } catch (error) {
    const info = infoOf(error);
    if (info?.reason !== "REVISION_MISMATCH") throw error;
    console.log(`${info.reason}: expected ${info.metadata.expected}, actual ${info.metadata.actual}`);
  }
}

// For several servers: a DNS name with all addresses, or "ipv4:10.0.0.1:8080,10.0.0.2:8080".
const address = process.env.WINDSHIFT_ADDRESS ?? "127.0.0.1:8080";
const events = new EventsServiceClient(address, credentials(), options);
const state = new StateServiceClient(address, credentials(), options);
try {
  await publish(events);
  await consume(events);
  await keep(state);
} catch (error) {
  console.error(error, infoOf(error)?.reason);
  process.exitCode = 1;
} finally {
  events.close();
  state.close();
}
