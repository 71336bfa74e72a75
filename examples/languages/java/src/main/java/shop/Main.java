package shop;

import com.google.gson.Gson;
import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.CallCredentials;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import shop.v1.OrderPlaced;
import windshift.events.v1alpha1.EnsureConsumerRequest;
import windshift.events.v1alpha1.EnsureStreamRequest;
import windshift.events.v1alpha1.Event;
import windshift.events.v1alpha1.EventsRequest;
import windshift.events.v1alpha1.EventsResponse;
import windshift.events.v1alpha1.EventsServiceGrpc;
import windshift.events.v1alpha1.PublishEventRequest;
import windshift.events.v1alpha1.StreamPointer;
import windshift.state.v1alpha1.EnsureStoreRequest;
import windshift.state.v1alpha1.GetRequest;
import windshift.state.v1alpha1.SetRequest;
import windshift.state.v1alpha1.StateServiceGrpc;

/** Publishes an order, consumes it, and keeps a total with compare-and-swap. */
public final class Main {
    private static final String STREAM = "shop-java";

    /** Sends a token with each call. Java sends it in plain text too, so give it to TLS channels alone. */
    private static final class Token extends CallCredentials {
        private static final Metadata.Key<String> KEY =
                Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
        private final String token;

        Token(String token) {
            this.token = token;
        }

        @Override
        public void applyRequestMetadata(RequestInfo info, Executor executor, MetadataApplier applier) {
            Metadata metadata = new Metadata();
            metadata.put(KEY, "Bearer " + token);
            applier.apply(metadata);
        }
    }

    /** Opens a channel. Several servers are a DNS name with several addresses: dns:///windshift.example:8080. */
    @SuppressWarnings("unchecked")
    private static ManagedChannel connect(String target) throws IOException {
        String ca = System.getenv("WINDSHIFT_TLS_CA");
        ChannelCredentials credentials =
                ca == null
                        ? InsecureChannelCredentials.create()
                        : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
        Map<String, ?> config = new Gson().fromJson(Files.readString(Path.of("../service-config.json")), Map.class);
        return Grpc.newChannelBuilder(target, credentials)
                .defaultServiceConfig(config)
                .enableRetry()
                .keepAliveTime(30, TimeUnit.SECONDS)
                .keepAliveTimeout(10, TimeUnit.SECONDS)
                .maxInboundMessageSize(16 << 20)
                .build();
    }

    /** Returns what programs decide by: the reason of an error, and its metadata. */
    private static Optional<ErrorInfo> info(StatusRuntimeException error) {
        for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                try {
                    return Optional.of(detail.unpack(ErrorInfo.class));
                } catch (InvalidProtocolBufferException broken) {
                    return Optional.empty();
                }
            }
        }
        return Optional.empty();
    }

    private static Any order(long cents) {
        return Any.pack(OrderPlaced.newBuilder().setId("A-17").setCents(cents).build());
    }

    private static void publish(EventsServiceGrpc.EventsServiceBlockingStub events) {
        events.ensureStream(
                EnsureStreamRequest.newBuilder()
                        .setName(STREAM)
                        .setSubjects(EnsureStreamRequest.Subjects.newBuilder().addSubjects(STREAM + ".>"))
                        .build());
        events.ensureConsumer(
                EnsureConsumerRequest.newBuilder()
                        .setStream(STREAM)
                        .setName("billing")
                        .setFrom(StreamPointer.newBuilder().setStart(true))
                        .build());
        PublishEventRequest request =
                PublishEventRequest.newBuilder()
                        .setSubject(STREAM + ".placed")
                        .setData(order(3490))
                        .setIdempotencyKey("order-" + UUID.randomUUID())
                        .build();
        for (int turn = 0; turn < 2; turn++) { // the same key stores it once, however often it is repeated
            var receipt = events.publish(request);
            System.out.printf("stored as event %d, duplicate: %b%n", receipt.getId(), receipt.getDuplicate());
        }
    }

    /** Handles one event. A worker goes on, and opens another call when this one breaks. */
    private static void consume(EventsServiceGrpc.EventsServiceStub events) {
        CompletableFuture<Void> ended = new CompletableFuture<>();
        AtomicReference<StreamObserver<EventsRequest>> call = new AtomicReference<>();
        call.set(
                events.consume(
                        new StreamObserver<>() {
                            @Override
                            public void onNext(EventsResponse response) {
                                switch (response.getResponseCase()) {
                                    case EVENT -> call.get().onNext(handle(response.getEvent()));
                                    case ACK_CONFIRMATION -> {
                                        var ids = response.getAckConfirmation().getIdsList();
                                        System.out.println("acknowledged " + ids);
                                        call.get().onCompleted();
                                    }
                                    case REJECT_CONFIRMATION -> call.get().onCompleted();
                                    default -> {}
                                }
                            }

                            @Override
                            public void onError(Throwable error) {
                                ended.completeExceptionally(error);
                            }

                            @Override
                            public void onCompleted() {
                                ended.complete(null);
                            }
                        }));
        var subscribe =
                EventsRequest.Subscribe.newBuilder()
                        .setStream(STREAM)
                        .setConsumer("billing")
                        .setMaxProcessingEvents(50);
        call.get().onNext(EventsRequest.newBuilder().setSubscribe(subscribe).build());
        ended.join();
    }

    /** Returns the verdict about an event. */
    private static EventsRequest handle(Event event) {
        try {
            OrderPlaced order = event.getData().unpack(OrderPlaced.class);
            System.out.printf(
                    "order %s costs %d, attempt %d%n", order.getId(), order.getCents(), event.getDeliveryAttempt());
            return EventsRequest.newBuilder().setAck(EventsRequest.Ack.newBuilder().addIds(event.getId())).build();
        } catch (InvalidProtocolBufferException error) { // no other attempt will make it readable
            var reject =
                    EventsRequest.Reject.newBuilder()
                            .addIds(event.getId())
                            .setAction(EventsRequest.RejectAction.REJECT_ACTION_DEAD_LETTER)
                            .setReason(String.valueOf(error.getMessage()));
            return EventsRequest.newBuilder().setReject(reject).build();
        }
    }

    /** Writes a value on top of the revision that was read, then on top of one that is not the latest. */
    private static void keep(StateServiceGrpc.StateServiceBlockingStub state) {
        state.ensureStore(EnsureStoreRequest.newBuilder().setStore(STREAM).build());
        long revision = state.get(GetRequest.newBuilder().setStore(STREAM).setKey("total").build()).getRevision();
        SetRequest.Builder write = SetRequest.newBuilder().setStore(STREAM).setKey("total").setValue(order(3490));
        if (revision == 0) {
            write.setCreateOnly(true);
        } else {
            write.setLastRevision(revision);
        }
        long written = state.set(write.build()).getRevision();
        try {
            state.set(write.clearCreateOnly().setLastRevision(written + 1).build());
        } catch (StatusRuntimeException error) {
            ErrorInfo told = info(error).orElseThrow(() -> error);
            if (error.getStatus().getCode() != Status.Code.ABORTED) {
                throw error;
            }
            System.out.printf(
                    "%s: expected %s, actual %s%n",
                    told.getReason(), told.getMetadataOrThrow("expected"), told.getMetadataOrThrow("actual"));
        }
    }

    public static void main(String[] arguments) throws Exception {
        ManagedChannel channel = connect(System.getenv("WINDSHIFT_ADDRESS"));
        String token = System.getenv("WINDSHIFT_TOKEN");
        boolean plain = System.getenv("WINDSHIFT_TLS_CA") == null;
        CallCredentials credentials = token == null || plain ? null : new Token(token);
        try {
            publish(EventsServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials));
            consume(EventsServiceGrpc.newStub(channel).withCallCredentials(credentials));
            keep(StateServiceGrpc.newBlockingStub(channel).withCallCredentials(credentials));
        } finally {
            channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
        }
    }
}
