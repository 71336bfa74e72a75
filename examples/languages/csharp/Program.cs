// Publishes an order, consumes it, and keeps a total with compare-and-swap.

using System.Security.Cryptography.X509Certificates;
using Google.Protobuf.WellKnownTypes;
using Google.Rpc;
using Grpc.Core;
using Grpc.Net.Client;
using Grpc.Net.Client.Configuration;
using Shop.V1;
using Windshift.Events.V1Alpha1;
using Windshift.State.V1Alpha1;

const string Stream = "shop-csharp";

using GrpcChannel channel = Connect(Environment.GetEnvironmentVariable("WINDSHIFT_ADDRESS") ?? "127.0.0.1:8080");
await Publish(new EventsService.EventsServiceClient(channel));
await Consume(new EventsService.EventsServiceClient(channel));
await Keep(new StateService.StateServiceClient(channel));

static GrpcChannel Connect(string address)
{
    string? ca = Environment.GetEnvironmentVariable("WINDSHIFT_TLS_CA");
    string? token = Environment.GetEnvironmentVariable("WINDSHIFT_TOKEN");
    var handler = new SocketsHttpHandler
    {
        KeepAlivePingDelay = TimeSpan.FromSeconds(30),
        KeepAlivePingTimeout = TimeSpan.FromSeconds(10),
        EnableMultipleHttp2Connections = true,
    };
    var options = new GrpcChannelOptions
    {
        HttpHandler = handler,
        MaxReceiveMessageSize = 16 << 20,
        ServiceConfig = new ServiceConfig { MethodConfigs = { Retried("EnsureStream"), Retried("Publish") } },
    };
    if (ca is null)
    {
        return GrpcChannel.ForAddress($"http://{address}", options);
    }
    var policy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust };
    policy.CustomTrustStore.ImportFromPemFile(ca);
    policy.RevocationMode = X509RevocationMode.NoCheck;
    handler.SslOptions.CertificateChainPolicy = policy;
    if (token is not null)
    {
        var authorized = CallCredentials.FromInterceptor((_, metadata) =>
        {
            metadata.Add("authorization", $"Bearer {token}");
            return Task.CompletedTask;
        });
        options.Credentials = ChannelCredentials.Create(new SslCredentials(), authorized);
    }
    return GrpcChannel.ForAddress($"https://{address}", options);
}

// Only for what may be repeated: see docs/languages/index.md.
static MethodConfig Retried(string method) => new()
{
    Names = { new MethodName { Service = "windshift.events.v1alpha1.EventsService", Method = method } },
    RetryPolicy = new()
    {
        MaxAttempts = 5,
        InitialBackoff = TimeSpan.FromMilliseconds(100),
        MaxBackoff = TimeSpan.FromSeconds(2),
        BackoffMultiplier = 2,
        RetryableStatusCodes = { StatusCode.Unavailable },
    },
};

static Any Pack(long cents) => Any.Pack(new OrderPlaced { Id = "A-17", Cents = cents });

static DateTime Soon() => DateTime.UtcNow.AddSeconds(10);

static async Task Publish(EventsService.EventsServiceClient events)
{
    var stream = new EnsureStreamRequest { Name = Stream, Subjects = new() { Subjects_ = { $"{Stream}.>" } } };
    await events.EnsureStreamAsync(stream, deadline: Soon());
    var consumer = new EnsureConsumerRequest { Stream = Stream, Name = "billing", From = new() { Start = true } };
    await events.EnsureConsumerAsync(consumer, deadline: Soon());
    var order = new PublishEventRequest
    {
        Subject = $"{Stream}.placed",
        Data = Pack(3490),
        IdempotencyKey = $"order-{Guid.NewGuid()}",
    };
    for (int turn = 0; turn < 2; turn++) // the same key stores it once, however often it is repeated
    {
        var receipt = await events.PublishAsync(order, deadline: Soon());
        Console.WriteLine($"stored as event {receipt.Id}, duplicate: {receipt.Duplicate.ToString().ToLower()}");
    }
}

// Handles one event. A worker goes on, and opens another call when this one breaks.
static async Task Consume(EventsService.EventsServiceClient events)
{
    using var call = events.Consume();
    var subscribe = new EventsRequest.Types.Subscribe
    {
        Stream = Stream,
        Consumer = "billing",
        MaxProcessingEvents = 50,
    };
    await call.RequestStream.WriteAsync(new EventsRequest { Subscribe = subscribe });
    await foreach (var response in call.ResponseStream.ReadAllAsync())
    {
        if (response.Event is { } delivered)
        {
            var order = delivered.Data.Unpack<OrderPlaced>();
            Console.WriteLine($"order {order.Id} costs {order.Cents}, attempt {delivered.DeliveryAttempt}");
            await call.RequestStream.WriteAsync(new EventsRequest { Ack = new() { Ids = { delivered.Id } } });
        }
        else if (response.AckConfirmation is { } confirmation)
        {
            Console.WriteLine($"acknowledged [{string.Join(" ", confirmation.Ids)}]");
            await call.RequestStream.CompleteAsync();
        }
    }
}

// Writes a value on top of the revision that was read, then on top of one that is not the latest.
static async Task Keep(StateService.StateServiceClient state)
{
    await state.EnsureStoreAsync(new EnsureStoreRequest { Store = Stream }, deadline: Soon());
    var read = await state.GetAsync(new GetRequest { Store = Stream, Key = "total" }, deadline: Soon());
    var write = new SetRequest { Store = Stream, Key = "total", Value = Pack(3490) };
    if (read.Revision == 0)
    {
        write.CreateOnly = true;
    }
    else
    {
        write.LastRevision = read.Revision;
    }
    var written = await state.SetAsync(write, deadline: Soon());
    write.ClearCreateOnly();
    write.LastRevision = written.Revision + 1;
    try
    {
        await state.SetAsync(write, deadline: Soon());
    }
    catch (RpcException error) when (error.StatusCode == StatusCode.Aborted)
    {
        // What programs decide by: the reason of an error, and its metadata.
        ErrorInfo? info = error.GetRpcStatus()?.GetDetail<ErrorInfo>();
        Console.WriteLine($"{info?.Reason}: expected {info?.Metadata["expected"]}, actual {info?.Metadata["actual"]}");
    }
}
