package rpc

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/ingester"
	"github.com/palliumhq/pallium/backend/wire"
)

// keeper is an ingester that records the series handed over to it, and sends its own.
type keeper struct {
	Ingester
	got  []*ingester.ActiveSeries
	has  []*ingester.ActiveSeries
	from string
}

func (k *keeper) ReserveSeries(_ context.Context, a *ingester.ActiveSeries) error {
	k.got = append(k.got, a)
	return nil
}

func (k *keeper) ActiveSeries(_ context.Context, instance string, send func(*ingester.ActiveSeries) error) error {
	k.from = instance
	for _, a := range k.has {
		if err := send(a); err != nil {
			return err
		}
	}
	return nil
}

// TestHandOver checks that active series are transferred unchanged in both directions.
func TestHandOver(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	want := []*ingester.ActiveSeries{
		{Tenant: "a", Bytes: 700, Hashes: []uint64{0, 1 << 63, 5}, Seconds: []uint32{1800, 0, 7}},
		{Tenant: "b", Bytes: 1, Hashes: make([]uint64, ingester.HandOverSlice), Seconds: make([]uint32, ingester.HandOverSlice)},
	}
	k := &keeper{has: want}
	p := serveIngester(t, k, sec, sec)
	for _, a := range want {
		if err := p.ReserveSeries(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(k.got, want) {
		t.Error("the ingester received other series than were handed over")
	}
	var got []*ingester.ActiveSeries
	if err := p.ActiveSeries(ctx, "x", func(a *ingester.ActiveSeries) error { got = append(got, a); return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Error("received other series than the ingester sent")
	}
	if k.from != "x" {
		t.Errorf("the ingester was asked for the series of instance %q, want x", k.from)
	}
	if err := p.ReserveSeries(ctx, &ingester.ActiveSeries{Tenant: "../no", Hashes: []uint64{1}, Seconds: []uint32{1}}); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("invalid tenant: %v", err)
	}
	_, whole := serve(t, sec, sec)
	if err := whole.ReserveSeries(ctx, &ingester.ActiveSeries{Tenant: "a", Hashes: []uint64{1}}); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("invalid list: %v", err)
	}
	if err := whole.ActiveSeries(ctx, "x", nil); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("ingester outside of a cluster: %v", err)
	}
}

// TestHandOverOlder checks that a peer of a version without handover counts as rejecting the
// call and not as unavailable.
func TestHandOverOlder(t *testing.T) {
	err := wire.Error(status.Error(codes.Unimplemented, "unknown method ReserveSeries"))
	if !errors.Is(err, wire.ErrRejected) || errors.Is(err, wire.ErrUnavailable) {
		t.Errorf("error of an unknown method: %v, want ErrRejected", err)
	}
}
