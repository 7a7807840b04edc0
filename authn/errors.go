package authn

import "time"

// Kind is the reason why a request was not authenticated. The set is closed.
type Kind int

// The kinds, with the status of the response.
const (
	Missing     Kind = iota + 1 // 401: no credential was sent
	Invalid                     // 401: malformed, unknown, or not signed by the issuer that it names
	Expired                     // 401
	Revoked                     // 401
	Throttled                   // 503: not checked in time, or rejected unchecked, because too many credentials are waiting
	Unavailable                 // 503: not checked, because a store is unavailable or the client disconnected (499); never shown as 401
)

// String returns the kind as a metric label.
func (k Kind) String() string {
	switch k {
	case Missing:
		return "missing"
	case Invalid:
		return "invalid"
	case Expired:
		return "expired"
	case Revoked:
		return "revoked"
	case Throttled:
		return "throttled"
	case Unavailable:
		return "unavailable"
	}
	return "unknown"
}

// Error is the reason why a credential was not accepted. Its text is for logs, never for
// the client, and contains no part of a secret.
type Error struct {
	Kind       Kind
	Reason     string        // one of a fixed set of codes, for logs and metrics
	RetryAfter time.Duration // with Throttled
	Err        error         // with Throttled and Unavailable: the cause
}

func (e *Error) Error() string {
	s := "credential " + e.Kind.String() + " (" + e.Reason + ")"
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

func invalid(reason string) *Error { return &Error{Kind: Invalid, Reason: reason} }
