package wire

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/palliumhq/pallium/policies/limits"
)

// ErrUnavailable is returned for a call that the peer could not serve, because it is
// unreachable, starting, stopping or overloaded. A retry may succeed.
var ErrUnavailable = errors.New("peer is not available")

// ErrRejected is returned for a call that the peer rejected. A retry of the same call would
// be rejected again.
var ErrRejected = errors.New("peer rejected the call")

// Status converts an error of a server to a gRPC status. The errors in unavailable become
// ErrUnavailable for the caller.
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

// Error converts the gRPC status of a call to an error: a *limits.Exceeded, an error that wraps
// context.DeadlineExceeded, context.Canceled, ErrUnavailable or ErrRejected, or another error.
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

// wrapped is an error with a text of its own that wraps another error.
type wrapped struct {
	text string
	is   error
}

func (w wrapped) Error() string { return w.text }
func (w wrapped) Unwrap() error { return w.is }
