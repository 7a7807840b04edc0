package bigtable

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/bigtable"
	"cloud.google.com/go/bigtable/apiv2/bigtablepb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/rows/rowtest"
	"github.com/palliumhq/pallium/test/kit/programs"
)

// TestContract runs the contract of rows.Store against Google's emulator.
func TestContract(t *testing.T) {
	address := programs.Bigtable(t)
	n := 0
	rowtest.Run(t, func(t *testing.T) rows.Store {
		n++
		return open(t, address, fmt.Sprintf("t%d", n))
	})
}

func open(t *testing.T, address, table string) *Store {
	t.Helper()
	ctx := context.Background()
	o := Options{Project: "p", Instance: "i", Table: table, Emulator: address}
	a, err := OpenAdmin(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Create(ctx); err != nil {
		t.Fatal(err)
	}
	// The emulator collects garbage every second, and the cells of rowtest are old.
	for _, f := range rows.Families() {
		if err := a.client.SetGCPolicy(ctx, table, string(f), bigtable.NoGcPolicy()); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(ctx, checked(o))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checked adds a check that fails calls that Bigtable rejects and the emulator accepts.
func checked(o Options) Options {
	o.dial = append(o.dial,
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, c *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if err := checkRequest(req); err != nil {
				return err
			}
			return next(ctx, method, req, reply, c, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := next(ctx, d, c, method, opts...)
			return checkedStream{s}, err
		}))
	return o
}

type checkedStream struct{ grpc.ClientStream }

func (s checkedStream) SendMsg(m any) error {
	if err := checkRequest(m); err != nil {
		return err
	}
	return s.ClientStream.SendMsg(m)
}

func checkRequest(m any) error {
	var filter *bigtablepb.RowFilter
	switch r := m.(type) {
	case *bigtablepb.ReadRowsRequest:
		filter = r.Filter
		if n := proto.Size(r); n > 512<<10 {
			return status.Errorf(codes.InvalidArgument, "a read request has %d bytes", n)
		}
	case *bigtablepb.CheckAndMutateRowRequest:
		filter = r.PredicateFilter
	}
	if n := proto.Size(filter); n > 20<<10 {
		return status.Errorf(codes.InvalidArgument, "a filter has %d bytes", n)
	}
	return nil
}

// TestChecked checks that a Store opened with checked rejects too long requests.
func TestChecked(t *testing.T) {
	ctx := context.Background()
	s := open(t, programs.Bigtable(t), "checked")
	defer s.Close()
	visit := func(bigtable.Row) bool { return true }
	long := strings.Repeat("q", 20<<10)
	if err := s.table.ReadRows(ctx, bigtable.InfiniteRange(""), visit, bigtable.RowFilter(bigtable.ColumnFilter(long))); status.Code(err) != codes.InvalidArgument {
		t.Errorf("read with a long filter: %v", err)
	}
	m := bigtable.NewCondMutation(bigtable.ColumnFilter(long), mutation([]rows.Mutation{rows.DeleteRow()}), nil)
	if err := s.table.Apply(ctx, "r", m); status.Code(err) != codes.InvalidArgument {
		t.Errorf("CheckAndMutate with a long condition: %v", err)
	}
	var many bigtable.RowList
	for range 30 {
		many = append(many, long)
	}
	if err := s.table.ReadRows(ctx, many, visit); status.Code(err) != codes.InvalidArgument {
		t.Errorf("read of many keys: %v", err)
	}
}

// TestColumnPattern checks that a pattern is exact if it fits, and otherwise as long as possible.
func TestColumnPattern(t *testing.T) {
	page := func(i int) string { return "\x00\xff\xee\xdd12345678p\x00\x01" + string([]byte{byte(i >> 8), byte(i)}) }
	var pages, some, far []string
	for i := range 60_000 {
		pages = append(pages, page(i))
		if i%60 == 0 {
			some = append(some, page(i))
			far = append(far, fmt.Sprintf("%08x-%s", i*2654435761, page(i)))
		}
	}
	for _, c := range []struct {
		name       string
		qualifiers []string
		exact      bool
		atLeast    int // bytes of each qualifier in the pattern, if it is not exact
	}{
		{"one", []string{"a"}, true, 0}, {"empty", []string{""}, true, 0},
		{"a thousand pages", some, true, 0}, {"all pages", pages, true, 0},
		{"far apart", far, false, 3},
	} {
		got, exact := columnPattern(rows.Filter{Qualifiers: c.qualifiers})
		if exact != c.exact || got == "" || len(got) > maxPattern {
			t.Errorf("%s: pattern has %d bytes, exact: %v", c.name, len(got), exact)
		}
		if !exact {
			cut, _ := alternatives(cutAll(slices.Sorted(slices.Values(c.qualifiers)), c.atLeast), c.atLeast)
			if len(got) < len(cut) {
				t.Errorf("%s: pattern has %d bytes; a pattern for the first %d bytes of each qualifier has %d", c.name, len(got), c.atLeast, len(cut))
			}
		}
	}
}

// TestAdmin checks that Create creates a table, completes an incomplete one, and is idempotent.
func TestAdmin(t *testing.T) {
	ctx := context.Background()
	o := Options{Project: "p", Instance: "i", Table: "ix1", Emulator: programs.Bigtable(t)}
	a, err := OpenAdmin(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ready := func(want bool) {
		t.Helper()
		if got, err := a.Ready(ctx); got != want || err != nil {
			t.Fatalf("ready is %v, want %v; error %v", got, want, err)
		}
	}
	ready(false)
	if err := a.client.CreateTable(ctx, "ix1"); err != nil {
		t.Fatal(err)
	}
	ready(false)
	if err := a.client.CreateColumnFamily(ctx, "ix1", string(rows.System)); err != nil {
		t.Fatal(err)
	}
	ready(false)
	for range 2 {
		if err := a.Create(ctx); err != nil {
			t.Fatal(err)
		}
		ready(true)
	}
}

// TestNoResponse checks that a read fails by itself if Bigtable does not respond, long before
// the caller's deadline, and that the error is not context.Canceled.
func TestNoResponse(t *testing.T) {
	addr := programs.Bigtable(t)
	var dialed []net.Conn
	var mu sync.Mutex
	gone := false
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if gone {
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			return nil, ctx.Err()
		}
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		dialed = append(dialed, c)
		return c, err
	}
	s, err := Open(t.Context(), Options{Project: "p", Instance: "i", Table: "t", Emulator: addr, dial: []grpc.DialOption{grpc.WithContextDialer(dial)}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mu.Lock()
	gone = true
	for _, c := range dialed {
		_ = c.Close()
	}
	mu.Unlock()
	s.noResponseAfter = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = s.ReadRows(ctx, []rows.Range{rows.Single("k")}, rows.Filter{}, func(rows.Row) bool { return true })
	if !errors.Is(err, errNoResponse) || errors.Is(err, context.Canceled) || ctx.Err() != nil {
		t.Errorf("read without a response: %v, want errNoResponse", err)
	}
}
