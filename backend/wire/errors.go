package wire

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/policies/limits"
)

// ErrUnavailable is the error of a call that reached nobody who could answer it:
// the peer is away, starting, stopping or full. Another call may succeed.
var ErrUnavailable = errors.New("peer is not available")

// ErrRejected is the error of a call that the peer understood and rejected; the
// same call would be rejected again.
var ErrRejected = errors.New("peer rejected the call")

// Status makes of an error what gRPC carries. unavailable are errors of the
// server's own that mean ErrUnavailable to the caller.
func Status(err error, unavailable ...error) error {
	if err == nil {
		return nil
	}
	var exceeded *limits.Exceeded
	if errors.As(err, &exceeded) {
		if data, jsonErr := json.Marshal(exceeded); jsonErr == nil {
			return status.Error(codes.OutOfRange, string(data))
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	for _, u := range unavailable {
		if errors.Is(err, u) {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// Error makes of what gRPC carried the error that it was: *limits.Exceeded,
// those of package context, ErrUnavailable, ErrRejected, or another.
func Error(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.OutOfRange:
		var e limits.Exceeded
		if json.Unmarshal([]byte(s.Message()), &e) == nil {
			return &e
		}
	case codes.DeadlineExceeded:
		return wrapped{s.Message(), context.DeadlineExceeded}
	case codes.Canceled:
		return wrapped{s.Message(), context.Canceled}
	case codes.Unavailable, codes.ResourceExhausted:
		return wrapped{s.Message(), ErrUnavailable}
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented:
		return wrapped{s.Message(), ErrRejected}
	}
	return errors.New(s.Message())
}

// wrapped has the text of one error and is another.
type wrapped struct {
	text string
	is   error
}

func (w wrapped) Error() string { return w.text }
func (w wrapped) Unwrap() error { return w.is }
