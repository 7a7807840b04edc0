package gateway

import (
	"errors"
	"net/http"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/policies/limits"
)

// Errors of Held.Take; they may be wrapped.
var (
	// ErrNoMemory reports that no memory is free now. The request may succeed later.
	ErrNoMemory = errors.New("no memory available")
	// ErrNeverFits reports that a request needs more memory than any request may have.
	ErrNeverFits = errors.New("request needs more memory than a request may have")
)

// Memory accounts for the bytes that requests hold in this process.
type Memory interface {
	// Hold opens the account of one request. All requests of the tenant together may hold up
	// to `most` bytes; 0 means that the tenant has no limit of its own. `write` is set for
	// requests that senders retry.
	Hold(id tenant.ID, most int64, write bool) Held
}

// Held is the memory account of one request.
type Held interface {
	// Take reserves n bytes before the request allocates them. Its error is a
	// *limits.Exceeded, ErrNoMemory or ErrNeverFits.
	Take(n int64) error
	// Close releases all bytes of the request.
	Close()
}

// unlimited implements Memory and Held without accounting.
type unlimited struct{}

func (unlimited) Hold(tenant.ID, int64, bool) Held { return unlimited{} }
func (unlimited) Take(int64) error                 { return nil }
func (unlimited) Close()                           {}

// noMemory returns the response to a request that could not reserve the memory it needs.
func noMemory(err error) *rejection {
	var exceeded *limits.Exceeded
	switch {
	case errors.As(err, &exceeded):
		return &rejection{status: http.StatusUnprocessableEntity, reason: exceeded.Name(), text: exceeded.Error()}
	case errors.Is(err, ErrNeverFits):
		return &rejection{status: http.StatusRequestEntityTooLarge, reason: "memory", detail: err,
			text: "the request needs more memory than one request may use: send smaller requests"}
	}
	return &rejection{status: http.StatusServiceUnavailable, reason: "memory", detail: err,
		text: "the server is out of memory for requests; try again later", retry: 2 * time.Second}
}
