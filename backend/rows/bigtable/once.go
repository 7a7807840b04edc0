package bigtable

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The client retries a read for as long as its context lasts, and has no option against that. A
// read is sent once here: package rows/retried repeats it, and continues after the last row, as
// the client does. The reads that belong to a write (the check of a condition without mutations,
// the keys of DeletePrefix) are still retried by the client.

// once is in the context of a read that must not be retried by the client.
type once struct {
	mu  sync.Mutex
	err error // of the stream that failed, which the client's own retries must not see
}

type onceKey struct{}

func withOnce(ctx context.Context) (context.Context, *once) {
	o := &once{}
	return context.WithValue(ctx, onceKey{}, o), o
}

// failure returns the error of the stream, or nil if none failed.
func (o *once) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// errNotRetried replaces the error of a stream. It has no status, so the client returns it.
var errNotRetried = errors.New("read failed")

func (o *once) fail(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
	return errNotRetried
}

// onlyOnce is the interceptor that hides errors of reads from the client's retries.
func onlyOnce(ctx context.Context, d *grpc.StreamDesc, c *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (
	grpc.ClientStream, error) {
	s, err := next(ctx, d, c, method, opts...)
	o, ok := ctx.Value(onceKey{}).(*once)
	if !ok {
		return s, err
	}
	if err != nil {
		return nil, o.fail(err)
	}
	return onceStream{s, o}, nil
}

type onceStream struct {
	grpc.ClientStream
	once *once
}

func (s onceStream) RecvMsg(m any) error { return s.once.fail(s.ClientStream.RecvMsg(m)) }

// Permanent reports whether an error of a read stays the same if the read is repeated, by the
// status that Bigtable returned.
func Permanent(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.DataLoss:
		return true
	}
	return false
}
