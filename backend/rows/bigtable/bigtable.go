// Package bigtable keeps rows in Google Bigtable. It implements rows.Store over
// the official client; only package main and migrations import it.
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

// Options name a table.
type Options struct {
	Project    string
	Instance   string
	Table      string
	AppProfile string // empty: the instance's default; it must route to one cluster, or conditional writes are rejected
	// CredentialsFile is a service account's key; empty: the machine's own.
	CredentialsFile string
	// Emulator is the address of an emulator, instead of the service.
	Emulator string

	dial []grpc.DialOption // of tests
}

// maxMessage bounds an answer of the service: a row may have up to 256 MiB.
const maxMessage = 256 << 20

func (o Options) client() ([]option.ClientOption, error) {
	if o.Project == "" || o.Instance == "" || o.Table == "" {
		return nil, errors.New("bigtable: project, instance and table must be set")
	}
	sizes := option.WithGRPCDialOption(grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if o.Emulator == "" {
		out := []option.ClientOption{sizes}
		if o.CredentialsFile != "" {
			out = append(out, option.WithAuthCredentialsFile(option.ServiceAccount, o.CredentialsFile))
		}
		return out, nil
	}
	out := []option.ClientOption{sizes, option.WithEndpoint(o.Emulator), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
	for _, d := range o.dial {
		out = append(out, option.WithGRPCDialOption(d))
	}
	return out, nil
}

// Store is one table.
type Store struct {
	client *bigtable.Client
	table  *bigtable.Table

	silence time.Duration // see silenceTime

	mu     sync.RWMutex // held for reading by every call, for writing by Close
	closed bool
}

var _ rows.Store = (*Store)(nil)

// Open connects to a table that exists.
func Open(ctx context.Context, o Options) (*Store, error) {
	opts, err := o.client()
	if err != nil {
		return nil, err
	}
	// The client's own metrics would go to Cloud Monitoring and be billed.
	c, err := bigtable.NewClientWithConfig(ctx, o.Project, o.Instance,
		bigtable.ClientConfig{AppProfile: o.AppProfile, MetricsProvider: bigtable.NoopMetricsProvider{}}, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to bigtable: %w", err)
	}
	return &Store{client: c, table: c.Open(o.Table), silence: silenceTime}, nil
}

// callTime bounds a call whose caller has set no deadline: the client would try
// for ever to reach a service that does not answer.
const callTime = 2 * time.Minute

// silenceTime is how long a read may be without a row before it fails: a request
// that waits for it is better told so than left to wait for its own deadline.
const silenceTime = 20 * time.Second

var errSilent = fmt.Errorf("no answer for %s", silenceTime)

// enter begins a call; the returned function ends it.
func (s *Store) enter(ctx context.Context) (context.Context, func(), error) {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return nil, nil, rows.ErrClosed
	}
	if _, ok := ctx.Deadline(); ok {
		return ctx, s.mu.RUnlock, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
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

// failed tells what was being done. A call whose context ended fails with the
// context's error, which the client words its own way.
func failed(ctx context.Context, what string, err error) error {
	if errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("bigtable: %s: %w", what, errSilent)
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("bigtable: %s: %w", what, cause)
	}
	return fmt.Errorf("bigtable: %s: %w", what, err)
}
