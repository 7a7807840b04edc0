package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/wire"
)

// fakeOperator implements Operator. Its Leave returns ErrConflict if stays is set.
type fakeOperator struct{ left, stays bool }

func (f *fakeOperator) Leave(_ context.Context, wait bool) error {
	if f.stays {
		return fmt.Errorf("%w: it has series set aside", ErrConflict)
	}
	if !wait {
		return errors.New("the disk is broken")
	}
	f.left = true
	return nil
}

func (f *fakeOperator) AcceptLoss(day int64) (int, error) { return int(day), nil }

func (f *fakeOperator) Status(context.Context) ([]byte, error) {
	return []byte(`{"instance":"x"}`), nil
}

func (f *fakeOperator) EndQuery(id string) ([]byte, error) {
	switch id {
	case "gone":
		return nil, nil
	case "bad":
		return nil, errors.New("cannot be ended")
	}
	return []byte(id), nil
}

// TestOperator checks operators' commands over the network, and that a process without a
// role rejects its commands.
func TestOperator(t *testing.T) {
	sec := member(t, secret, cluster.TLSFiles{})
	o := &fakeOperator{stays: true}
	s := NewServer(sec, nil, nil, nil)
	s.ServeOperator(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	pool := NewPool(sec)
	defer func() { _ = pool.Close(); s.Stop(ctx); <-done }()
	p, err := pool.Peer(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Leave(ctx, true); !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "set aside") {
		t.Errorf("Leave with a conflict = %v, want ErrConflict", err)
	}
	o.stays = false
	if err := p.Leave(ctx, false); err == nil || errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "disk is broken") {
		t.Errorf("Leave with an error = %v, want the error", err)
	}
	if err := p.Leave(ctx, true); err != nil || !o.left {
		t.Errorf("Leave = %v, left %v", err, o.left)
	}
	if n, err := p.AcceptLoss(ctx, 7); err != nil || n != 7 {
		t.Errorf("AcceptLoss = %d, %v", n, err)
	}
	if text, err := p.Status(ctx); err != nil || string(text) != `{"instance":"x"}` {
		t.Errorf("Status = %s, %v", text, err)
	}
	if q, err := p.EndQuery(ctx, "00ff"); err != nil || string(q) != "00ff" {
		t.Errorf("EndQuery = %s, %v", q, err)
	}
	if q, err := p.EndQuery(ctx, "gone"); err != nil || q != nil {
		t.Errorf("EndQuery of another query = %s, %v", q, err)
	}
	if _, err := p.EndQuery(ctx, "bad"); err == nil {
		t.Error("EndQuery that fails has no error")
	}
	if _, err := p.Compact(ctx, false); !errors.Is(err, wire.ErrRejected) {
		t.Errorf("Compact on a process without a compactor = %v, want ErrRejected", err)
	}
}
