package bigtable

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/bigtable/apiv2/bigtablepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/retried"
)

// broken is a Bigtable service whose reads fail after perRow rows.
type broken struct {
	bigtablepb.UnimplementedBigtableServer
	code   codes.Code
	perRow int // rows of a read before it fails
	from   []string
}

func (b *broken) ReadRows(r *bigtablepb.ReadRowsRequest, s bigtablepb.Bigtable_ReadRowsServer) error {
	start := string(r.GetRows().GetRowRanges()[0].GetStartKeyClosed())
	b.from = append(b.from, start)
	n := 0
	for i := range 10 {
		key := fmt.Sprintf("k%d", i)
		if key < start {
			continue
		}
		if n++; n > b.perRow {
			return status.Error(b.code, "tablet moves")
		}
		err := s.Send(&bigtablepb.ReadRowsResponse{Chunks: []*bigtablepb.ReadRowsResponse_CellChunk{{RowKey: []byte(key),
			FamilyName: wrapperspb.String("s"), Qualifier: wrapperspb.Bytes([]byte("q")), RowStatus: &bigtablepb.ReadRowsResponse_CellChunk_CommitRow{CommitRow: true}}}})
		if err != nil {
			return err
		}
	}
	return nil
}

// PingAndWarm is called by the client when it connects.
func (b *broken) PingAndWarm(context.Context, *bigtablepb.PingAndWarmRequest) (*bigtablepb.PingAndWarmResponse, error) {
	return &bigtablepb.PingAndWarmResponse{}, nil
}

func serve(t *testing.T, b *broken) *Store {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	bigtablepb.RegisterBigtableServer(srv, b)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	s, err := Open(t.Context(), Options{Project: "p", Instance: "i", Table: "t", Emulator: l.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestSentOnce checks that a read is sent once, and that its error has the status of the service:
// the tries of package retried are not multiplied by tries of the client.
func TestSentOnce(t *testing.T) {
	for code, permanent := range map[codes.Code]bool{codes.Unavailable: false, codes.Aborted: false, codes.Internal: false,
		codes.ResourceExhausted: false, codes.PermissionDenied: true, codes.NotFound: true} {
		t.Run(code.String(), func(t *testing.T) {
			b := &broken{code: code}
			s := serve(t, b)
			visit := func(rows.Row) bool { return true }
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // if the client retries
			defer cancel()
			err := s.ReadRows(ctx, []rows.Range{{Start: "k0"}}, rows.Filter{}, visit)
			if len(b.from) != 1 || status.Code(err) != code || Permanent(err) != permanent || !strings.Contains(err.Error(), "tablet moves") {
				t.Errorf("sent %d times; permanent %v: %v", len(b.from), Permanent(err), err)
			}
			b.from = nil
			want := map[bool]int{true: 1, false: 4}[permanent]
			err = retried.New(s, retried.Options{Permanent: Permanent}).ReadRows(ctx, []rows.Range{{Start: "k0"}}, rows.Filter{}, visit)
			if len(b.from) != want || status.Code(err) != code {
				t.Errorf("retried: sent %d times, want %d: %v", len(b.from), want, err)
			}
		})
	}
}

// TestContinues checks that a retried read continues after the last row that Bigtable returned.
func TestContinues(t *testing.T) {
	b := &broken{code: codes.Unavailable, perRow: 4}
	s := retried.New(serve(t, b), retried.Options{Permanent: Permanent})
	var got []string
	err := s.ReadRows(t.Context(), []rows.Range{{Start: "k0"}}, rows.Filter{}, func(r rows.Row) bool { got = append(got, r.Key); return true })
	if err != nil || strings.Join(got, "") != "k0k1k2k3k4k5k6k7k8k9" || len(b.from) != 3 {
		t.Errorf("rows %v from %q: %v", got, b.from, err)
	}
}
