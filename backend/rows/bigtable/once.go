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

// The client retries a read until the context is done, and has no option to disable that. ReadRows
// therefore hides errors from the client, so that each read is sent only once. Package rows/retried
// retries it after the last row received, as the client would. The client still retries the reads
// that belong to a write: the check of a condition without mutations, and the keys of DeletePrefix.

// once is a value in the context of a read that the client must not retry.
type once struct {
	mu  sync.Mutex
	err error // the error of a failed stream, which is hidden from the client
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

// errNotRetried replaces the error of a stream. It has no gRPC status, so the client
// returns it instead of retrying.
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

// Permanent reports whether a retry of a read would fail with the same error, judging by the
// status that Bigtable returned.
func Permanent(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.DataLoss:
		return true
	}
	return false
}
