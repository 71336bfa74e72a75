// Publishes an order, consumes it, and keeps a total with compare-and-swap.
package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	shop "example/gen/shop/v1"
	events "example/gen/windshift/events/v1alpha1"
	state "example/gen/windshift/state/v1alpha1"
)

// token is sent with each call, and only over TLS.
type token string

func (t token) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(t)}, nil
}

func (token) RequireTransportSecurity() bool { return true }

// connect opens a channel to one or several servers: a DNS name with several addresses is used in turn.
func connect(target string) (*grpc.ClientConn, error) {
	serviceConfig, err := os.ReadFile("../service-config.json")
	if err != nil {
		return nil, err
	}
	options := []grpc.DialOption{
		grpc.WithDefaultServiceConfig(string(serviceConfig)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}
	ca := os.Getenv("WINDSHIFT_TLS_CA")
	if ca == "" {
		return grpc.NewClient(target, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(pem) {
		return nil, errors.New("WINDSHIFT_TLS_CA has no certificate")
	}
	options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: authorities})))
	if secret := os.Getenv("WINDSHIFT_TOKEN"); secret != "" {
		options = append(options, grpc.WithPerRPCCredentials(token(secret)))
	}
	return grpc.NewClient(target, options...)
}

// reason returns what programs decide by: the reason of an error, and its metadata.
func reason(err error) (string, map[string]string) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "windshift" {
			return info.Reason, info.Metadata
		}
	}
	return "", nil
}

func pack(cents int64) *anypb.Any {
	packed, err := anypb.New(&shop.OrderPlaced{Id: "A-17", Cents: cents})
	if err != nil {
		panic(err) // only for messages that are not valid
	}
	return packed
}

func publish(ctx context.Context, client events.EventsServiceClient) error {
	stream := &events.EnsureStreamRequest{
		Name: "shop-go",
		Source: &events.EnsureStreamRequest_Subjects_{
			Subjects: &events.EnsureStreamRequest_Subjects{Subjects: []string{"shop-go.>"}},
		},
	}
	if _, err := client.EnsureStream(ctx, stream); err != nil {
		return err
	}
	name, key := "billing", "order-"+rand.Text()
	consumer := &events.EnsureConsumerRequest{
		Stream: "shop-go",
		Name:   &name,
		From:   &events.StreamPointer{Pointer: &events.StreamPointer_Start{Start: true}},
	}
	if _, err := client.EnsureConsumer(ctx, consumer); err != nil {
		return err
	}
	order := &events.PublishEventRequest{Subject: "shop-go.placed", Data: pack(3490), IdempotencyKey: &key}
	for range 2 { // the same key stores it once, however often it is repeated
		receipt, err := client.Publish(ctx, order)
		if err != nil {
			return err
		}
		fmt.Printf("stored as event %d, duplicate: %t\n", receipt.Id, receipt.Duplicate)
	}
	return nil
}

// consume handles one event. A worker does so in a loop, and opens another call when this one breaks.
func consume(ctx context.Context, client events.EventsServiceClient) error {
	call, err := client.Consume(ctx)
	if err != nil {
		return err
	}
	room := uint64(50)
	subscribe := &events.EventsRequest_Subscribe{Stream: "shop-go", Consumer: "billing", MaxProcessingEvents: &room}
	if err := call.Send(&events.EventsRequest{Request: &events.EventsRequest_Subscribe_{Subscribe: subscribe}}); err != nil {
		return err
	}
	for {
		response, err := call.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch {
		case response.GetEvent() != nil:
			event, order := response.GetEvent(), &shop.OrderPlaced{}
			request := &events.EventsRequest{Request: &events.EventsRequest_Ack_{
				Ack: &events.EventsRequest_Ack{Ids: []uint64{event.Id}},
			}}
			if err := event.Data.UnmarshalTo(order); err != nil { // no other attempt will make it readable
				request.Request = &events.EventsRequest_Reject_{Reject: &events.EventsRequest_Reject{
					Ids: []uint64{event.Id}, Action: events.EventsRequest_REJECT_ACTION_DEAD_LETTER, Reason: err.Error(),
				}}
			} else {
				fmt.Printf("order %s costs %d, attempt %d\n", order.Id, order.Cents, event.DeliveryAttempt)
			}
			if err := call.Send(request); err != nil {
				return err
			}
		case response.GetAckConfirmation() != nil:
			fmt.Println("acknowledged", response.GetAckConfirmation().Ids)
			if err := call.CloseSend(); err != nil {
				return err
			}
		case response.GetRejectConfirmation() != nil:
			if err := call.CloseSend(); err != nil {
				return err
			}
		}
	}
}

// keep writes a value on top of the revision that was read, then on top of one that is not the latest any more.
func keep(ctx context.Context, client state.StateServiceClient) error {
	if _, err := client.EnsureStore(ctx, &state.EnsureStoreRequest{Store: "shop-go"}); err != nil {
		return err
	}
	read, err := client.Get(ctx, &state.GetRequest{Store: "shop-go", Key: "total"})
	if err != nil {
		return err
	}
	write := &state.SetRequest{Store: "shop-go", Key: "total", Value: pack(3490)}
	if read.Revision == 0 {
		create := true
		write.CreateOnly = &create
	} else {
		write.LastRevision = &read.Revision
	}
	written, err := client.Set(ctx, write)
	if err != nil {
		return err
	}
	stale := written.Revision + 1
	_, err = client.Set(ctx, &state.SetRequest{Store: "shop-go", Key: "total", Value: pack(0), LastRevision: &stale})
	if status.Code(err) != codes.Aborted {
		return fmt.Errorf("a conflict was expected: %w", err)
	}
	why, told := reason(err)
	fmt.Printf("%s: expected %s, actual %s\n", why, told["expected"], told["actual"])
	return nil
}

func run() error {
	channel, err := connect(os.Getenv("WINDSHIFT_ADDRESS"))
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := publish(ctx, events.NewEventsServiceClient(channel)); err != nil {
		return err
	}
	if err := consume(ctx, events.NewEventsServiceClient(channel)); err != nil {
		return err
	}
	return keep(ctx, state.NewStateServiceClient(channel))
}

func main() {
	if err := run(); err != nil {
		why, told := reason(err)
		log.Fatal(err, " ", why, " ", told)
	}
}
