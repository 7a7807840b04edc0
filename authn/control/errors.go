package control

import (
	"errors"
	"fmt"
)

// Kind is the kind of an Error; the admin API derives its status codes from it. An error
// that is not an *Error is not a mistake of the caller: usually the store is unavailable.
type Kind uint8

// The kinds of errors.
const (
	Invalid  Kind = iota + 1 // a field has an invalid value
	NotFound                 // the object does not exist or was deleted
	Conflict                 // the current state does not allow the change
	Stale                    // the ETag is not the current one
)

// Error is a mistake of the caller.
type Error struct {
	Kind    Kind
	Field   string // the invalid field, as the admin API names it; may be empty
	Message string // what is wrong and how to fix it
	Hint    string // how to fix it in terms of the admin API; may be empty
	err     error
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + "; " + e.Hint
}

// Unwrap returns a sentinel error such as tenant.ErrUnknown, or nil.
func (e *Error) Unwrap() error { return e.err }

// IsKind reports whether err is an *Error of kind k.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

func fail(k Kind, field, format string, args ...any) *Error {
	return &Error{Kind: k, Field: field, Message: fmt.Sprintf(format, args...)}
}
