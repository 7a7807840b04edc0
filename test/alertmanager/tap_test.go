package alertmanager

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/bigtable/apiv2/bigtablepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/palliumhq/pallium/backend/schema"
)

// kind is the kind of a write to the row of a notification.
type kind string

const (
	claim   kind = "claim"
	renewal kind = "renewal"
	release kind = "release"
	sent    kind = "sent"
)

// write is a conditional write of a notification's row, on its way to the row store.
type write struct {
	process string // process that writes
	key     string // of the row
	kind    kind   // right until the second notification of a group: an entry in the row counts as sent
}

// hook is called before a write is forwarded, and again, with `answered` set, before the response is forwarded. It may block
// until the context ends, because the process has stopped waiting or was killed. After an error, the write or the response
// is not forwarded.
type hook func(ctx context.Context, w write, answered bool) error

// tap is a gRPC proxy between an Alertmanager and the row store. It forwards every call unchanged, and
// calls a hook for writes of notifications.
type tap struct {
	process string
	addr    string
	conn    *grpc.ClientConn
	hook    hook

	mu     sync.Mutex
	claims map[string]bool // by holder, which is unique for each claim
}

// newTap returns a tap that listens until the test ends.
func newTap(t *testing.T, process, target string, h hook) *tap {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{process: process, addr: l.Addr().String(), conn: conn, hook: h, claims: map[string]bool{}}
	s := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(p.forward), grpc.MaxRecvMsgSize(1<<30))
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) }) // ends with Stop
	t.Cleanup(func() {
		s.Stop()
		serving.Wait()
		_ = conn.Close()
	})
	return p
}

// rawCodec passes messages on without decoding them.
type rawCodec struct{}

// Marshal implements encoding.Codec.
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

// Unmarshal implements encoding.Codec.
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name implements encoding.Codec.
func (rawCodec) Name() string { return "proto" }

// forward forwards one call.
func (p *tap) forward(_ any, in grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(in)
	md, _ := metadata.FromIncomingContext(in.Context())
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(in.Context(), md))
	defer cancel()
	if strings.HasSuffix(method, "/CheckAndMutateRow") {
		return p.conditional(ctx, method, in)
	}
	out, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	go func() { // ends with the call
		for {
			var message []byte
			err := in.RecvMsg(&message)
			if errors.Is(err, io.EOF) {
				_ = out.CloseSend() // the response contains the error
				return
			}
			if err != nil || out.SendMsg(&message) != nil {
				return
			}
		}
	}()
	for {
		var message []byte
		err := out.RecvMsg(&message)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := in.SendMsg(&message); err != nil {
			return err
		}
	}
}

// conditional forwards a conditional write, which the hook may delay.
func (p *tap) conditional(ctx context.Context, method string, in grpc.ServerStream) error {
	var request, response []byte
	if err := in.RecvMsg(&request); err != nil {
		return err
	}
	w, ok := p.decode(request)
	if ok {
		if err := p.hook(ctx, w, false); err != nil {
			return err
		}
	}
	if err := p.conn.Invoke(ctx, method, &request, &response); err != nil {
		return err
	}
	if ok {
		if err := p.hook(ctx, w, true); err != nil {
			return err
		}
	}
	return in.SendMsg(&response)
}

// decode decodes a request, and reports whether it is a write of a notification's row.
func (p *tap) decode(request []byte) (write, bool) {
	var r bigtablepb.CheckAndMutateRowRequest
	if err := proto.Unmarshal(request, &r); err != nil {
		return write{}, false
	}
	for _, m := range append(r.TrueMutations, r.FalseMutations...) {
		cell := m.GetSetCell()
		if cell == nil || string(cell.ColumnQualifier) != schema.NotificationQualifier {
			continue
		}
		n, err := schema.DecodeNotification(cell.Value)
		if err != nil {
			continue
		}
		return write{process: p.process, key: string(r.RowKey), kind: p.kind(n)}, true
	}
	return write{}, false
}

func (p *tap) kind(n schema.Notification) kind {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case n.Holder == "" && n.Entry != "":
		return sent
	case n.Holder == "":
		return release
	case p.claims[n.Holder]:
		return renewal
	}
	p.claims[n.Holder] = true
	return claim
}
