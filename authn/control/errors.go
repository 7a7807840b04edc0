package control

import (
	"errors"
	"fmt"
)

// Kind is what sort of mistake an Error is; the admin API makes its status
// codes of it. Errors that are not an *Error mean that the store could not
// answer.
type Kind uint8

// The kinds.
const (
	Invalid  Kind = iota + 1 // a field has a value that is not allowed
	NotFound                 // the thing does not exist, or no longer
	Conflict                 // the state of things forbids it
	Stale                    // the ETag is not the current one
)

// Error is a mistake of the caller of the control plane.
type Error struct {
	Kind    Kind
	Field   string // the field that is at fault, as the admin API names it; may be empty
	Message string // says what is wrong and how to mend it
	err     error
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives sentinel errors such as tenant.ErrUnknown.
func (e *Error) Unwrap() error { return e.err }

// IsKind reports whether err is an *Error of that kind.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

func fail(k Kind, field, format string, args ...any) *Error {
	return &Error{Kind: k, Field: field, Message: fmt.Sprintf(format, args...)}
}
