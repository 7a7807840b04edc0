package gateway

import (
	"errors"
	"net/http"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// Errors of Held.Take, which may be wrapped.
var (
	// ErrNoMemory is of a request for which no memory is free. It may succeed later.
	ErrNoMemory = errors.New("no memory is free")
	// ErrNeverFits is of a request that needs more than it can ever have.
	ErrNeverFits = errors.New("more memory is needed than a request can have")
)

// Memory is the account of the bytes that requests hold in this process.
type Memory interface {
	// Hold begins a request of a tenant that may hold most bytes with all of its
	// requests; 0 is no limit of its own. write is set for what senders repeat.
	Hold(id tenant.ID, most int64, write bool) Held
}

// Held is what one request holds.
type Held interface {
	// Take adds n bytes, before the request has them. Its error is a
	// *limits.Exceeded, ErrNoMemory or ErrNeverFits.
	Take(n int64) error
	// Close gives all of them back.
	Close()
}

// unlimited is the account of a gateway that was given none.
type unlimited struct{}

func (unlimited) Hold(tenant.ID, int64, bool) Held { return unlimited{} }
func (unlimited) Take(int64) error                 { return nil }
func (unlimited) Close()                           {}

// noMemory is the answer to a request that could not have the memory it needs.
func noMemory(err error) *rejection {
	var exceeded *limits.Exceeded
	switch {
	case errors.As(err, &exceeded):
		return &rejection{status: http.StatusUnprocessableEntity, reason: exceeded.Name(), text: exceeded.Error()}
	case errors.Is(err, ErrNeverFits):
		return &rejection{status: http.StatusRequestEntityTooLarge, reason: "memory", detail: err,
			text: "the request needs more memory than one can have here: send smaller requests"}
	}
	return &rejection{status: http.StatusServiceUnavailable, reason: "memory", detail: err,
		text: "no memory is free for the request, try again", retry: 2 * time.Second}
}
