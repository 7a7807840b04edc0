package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"

	"github.com/palliumhq/pallium/authn/cluster"
	"github.com/palliumhq/pallium/backend/recovery"
	"github.com/palliumhq/pallium/backend/ring"
	ringredis "github.com/palliumhq/pallium/backend/ring/redis"
	"github.com/palliumhq/pallium/backend/rpc"
	"github.com/palliumhq/pallium/backend/wire"
	"github.com/palliumhq/pallium/gateway/admin"
	"github.com/palliumhq/pallium/gateway/admin/operator"
)

// TestRingUnavailable checks that, while Redis is unreachable, every command that needs the ring
// returns an error that the operator package logs and answers with 503. The command itself logs
// nothing, and clients must not get the cause.
func TestRingUnavailable(t *testing.T) {
	client := goredis.NewClient(&goredis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	secrets, err := cluster.ParseSecrets(long)
	if err != nil {
		t.Fatal(err)
	}
	member, err := cluster.New(cluster.Options{Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	members, err := ringredis.Open(ringredis.Options{Client: client, Signer: member, Self: ring.Instance{ID: "self"}, Registerer: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	m := &membership{replication: 3, members: members, recovery: recovery.New(recovery.Options{Members: members, Logger: logger})}
	b := &backend{process: &process{opts: Options{Logger: logger}}, cluster: m}
	o, c := operations{b}, clusterOperations{b, m}
	task := func(do operator.Task, err error) error {
		if err == nil {
			_, err = do(t.Context())
		}
		return err
	}
	for name, do := range map[string]func(context.Context) error{
		"list": func(ctx context.Context) error { _, err := c.Members(ctx); return err },
		"forget": func(ctx context.Context) error {
			_, err := c.Forget(ctx, "i", false)
			return err
		},
		"leave":            func(ctx context.Context) error { return c.Leave(ctx, "i", true) },
		"flush one":        func(ctx context.Context) error { return task(o.Flush(ctx, "i")) },
		"flush all":        func(ctx context.Context) error { return task(o.Flush(ctx, "")) },
		"compact one":      func(ctx context.Context) error { return task(o.Compact(ctx, "i", false)) },
		"compact anywhere": func(ctx context.Context) error { return task(o.Compact(ctx, "", false)) },
	} {
		if err := do(t.Context()); !errors.Is(err, operator.ErrUnavailable) || !errors.Is(err, ring.ErrUnknown) || admin.IsProblem(err) {
			t.Errorf("%s: %v, want one that is unavailable with its cause, not for the client", name, err)
		}
	}
	if log.Len() > 0 {
		t.Errorf("errors are logged and returned: %s", log.String())
	}
}

// TestNotLeft checks that the client gets the reason why an ingester must not leave, and that any
// other error is left to the operator package, which logs it.
func TestNotLeft(t *testing.T) {
	if err := notLeft("i", nil); err != nil {
		t.Errorf("without an error: %v", err)
	}
	if err := notLeft("i", fmt.Errorf("%w: writes need it", rpc.ErrConflict)); !admin.IsProblem(err) {
		t.Errorf("a conflict is not for the client: %v", err)
	}
	for _, cause := range []error{wire.ErrUnavailable, errors.New("disk is broken")} {
		if err := notLeft("i", cause); !errors.Is(err, operator.ErrUnavailable) || !errors.Is(err, cause) || admin.IsProblem(err) {
			t.Errorf("%v: %v, want one that is unavailable with its cause, not for the client", cause, err)
		}
	}
}
