// Package bigtable implements rows.Store in Google Bigtable, with the official client. Outside of
// tests, only package main imports it.
package bigtable

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cloud.google.com/go/bigtable"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/palliumhq/pallium/backend/rows"
)

// Options identify a table and how to connect to it.
type Options struct {
	Project    string
	Instance   string
	Table      string
	AppProfile string // empty: the instance's default; it must route to one cluster, or conditional writes are rejected
	// CredentialsFile is the key file of a service account; empty: the machine's default credentials.
	CredentialsFile string
	// Emulator is the address of an emulator to use instead of the service.
	Emulator string

	dial []grpc.DialOption // of tests
}

// maxMessage is the largest gRPC message: a row may have up to 256 MiB.
const maxMessage = 256 << 20

func (o Options) client() ([]option.ClientOption, error) {
	if o.Project == "" || o.Instance == "" || o.Table == "" {
		return nil, errors.New("bigtable: project, instance and table must be set")
	}
	out := []option.ClientOption{
		option.WithGRPCDialOption(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))),
		option.WithGRPCDialOption(grpc.WithChainStreamInterceptor(onlyOnce)),
	}
	if o.Emulator == "" {
		if o.CredentialsFile != "" {
			out = append(out, option.WithAuthCredentialsFile(option.ServiceAccount, o.CredentialsFile))
		}
		return out, nil
	}
	out = append(out, option.WithEndpoint(o.Emulator), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	for _, d := range o.dial {
		out = append(out, option.WithGRPCDialOption(d))
	}
	return out, nil
}

// Store is a rows.Store in one table.
type Store struct {
	client *bigtable.Client
	table  *bigtable.Table

	noResponseAfter time.Duration // see defaultNoResponseAfter

	mu     sync.RWMutex // held for reading by every call, for writing by Close
	closed bool
}

var _ rows.Store = (*Store)(nil)

// Open connects to an existing table.
func Open(ctx context.Context, o Options) (*Store, error) {
	opts, err := o.client()
	if err != nil {
		return nil, err
	}
	// Without the client's own metrics, which go to Cloud Monitoring and are billed.
	c, err := bigtable.NewClientWithConfig(ctx, o.Project, o.Instance,
		bigtable.ClientConfig{AppProfile: o.AppProfile, MetricsProvider: bigtable.NoopMetricsProvider{}}, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to bigtable: %w", err)
	}
	return &Store{client: c, table: c.Open(o.Table), noResponseAfter: defaultNoResponseAfter}, nil
}

// callTimeout limits a call without a deadline: the client would retry forever if Bigtable
// does not respond.
const callTimeout = 2 * time.Minute

// defaultNoResponseAfter is the time without a row after which a read fails, so that a
// request gets this error instead of waiting for its own deadline.
const defaultNoResponseAfter = 20 * time.Second

var errNoResponse = fmt.Errorf("no response for %s", defaultNoResponseAfter)

// enter starts a call; the caller calls the returned function at its end.
func (s *Store) enter(ctx context.Context) (context.Context, func(), error) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return nil, nil, rows.ErrClosed
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, s.mu.RUnlock, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	return ctx, func() { cancel(); s.mu.RUnlock() }, nil
}

// Close implements rows.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.client.Close()
}

// failed wraps the error of a call. If the context is done it returns the context's error,
// which the client reports as errors of other types.
func failed(ctx context.Context, what string, err error) error {
	if errors.Is(context.Cause(ctx), errNoResponse) {
		return fmt.Errorf("bigtable: %s: %w", what, errNoResponse)
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("bigtable: %s: %w", what, cause)
	}
	return fmt.Errorf("bigtable: %s: %w", what, err)
}
