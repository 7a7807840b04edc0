package authn

import "time"

// Kind is why nobody was authenticated. The set is closed.
type Kind int

// The kinds, with the status an edge answers.
const (
	Missing     Kind = iota + 1 // 401: no credential was sent
	Invalid                     // 401: malformed, unknown, or not signed by who it names
	Expired                     // 401
	Revoked                     // 401
	Throttled                   // 503: too many wait to be checked, and most from there; it was not checked
	Unavailable                 // 503: a store could not answer; never to be shown as 401
)

// String is the kind as a metric label.
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

// Error says why a credential was not accepted. Its text is for logs, never for
// the client, and holds no part of a secret.
type Error struct {
	Kind       Kind
	Reason     string        // a code out of a fixed set, for logs and metrics
	RetryAfter time.Duration // with Throttled
	Err        error         // with Throttled and Unavailable: what failed
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
