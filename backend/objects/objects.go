// Package objects is the port to the store of immutable objects in which the packs are
// stored: Cloud Storage in a cluster, a directory on one machine. It defines the Store
// interface, and the checks of names and ranges that every adapter runs first. Package
// objecttest tests that an adapter keeps the contract.
package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Limits of every store.
const (
	MaxNameLength = 900     // bytes; the limit of Cloud Storage is 1024
	MaxRange      = 1 << 30 // bytes of one Get
)

// Errors of every store. Wrapping errors name the object.
var (
	ErrNotFound = errors.New("object does not exist")
	// ErrExists is returned by Put if an object with the name exists and has different
	// content. The existing object is not changed.
	ErrExists  = errors.New("object exists with different content")
	ErrInvalid = errors.New("invalid use of the object store")
	ErrClosed  = errors.New("object store is closed")
)

// Object describes a stored object.
type Object struct {
	Name    string
	Size    int64
	CRC     uint32    // CRC-32C of its bytes
	Created time.Time // by the store's clock
}

// Store is a flat set of immutable objects by name. A name is one or more
// segments joined by slashes. An object appears complete or not at all.
//
// Rules that hold for all methods:
//   - A Put or Delete that has returned without an error survives a crash of the
//     machine, and is seen by every call that starts afterwards.
//   - An invalid argument returns ErrInvalid. After Close every call returns ErrClosed.
//   - After any other error, including a context error, a Put or Delete may or may
//     not have been applied; both may be repeated.
//   - All methods are safe for concurrent use.
type Store interface {
	// Put stores the file at path under the given name. The file must be complete and
	// synced, and must never be changed afterwards: an adapter may link to it instead of
	// copying it. The caller may remove the file later; that does not affect the object.
	// crc is the CRC-32C of the file: if the file has another one, Put returns an error
	// and stores nothing. If an object with the name, size and CRC exists, Put returns
	// that object as if it had stored it; if the object with the name differs, Put
	// returns ErrExists.
	Put(ctx context.Context, name, path string, crc uint32) (Object, error)

	// Get returns n bytes from offset off, all of them or an error. It returns
	// ErrInvalid for a range beyond the end of the object, and ErrNotFound if there is no
	// object. The caller owns the bytes.
	Get(ctx context.Context, name string, off int64, n int) ([]byte, error)

	// Stat describes an object, or returns ErrNotFound.
	Stat(ctx context.Context, name string) (Object, error)

	// List calls visit for each object whose name starts with prefix, in the
	// order of names as bytes, until visit returns false. The objects have no CRC.
	// Objects stored or deleted meanwhile may or may not be visited. visit may call the
	// store.
	List(ctx context.Context, prefix string, visit func(Object) bool) error

	// Delete deletes an object. It returns nil if there is none.
	Delete(ctx context.Context, name string) error

	// Close closes the store. A second Close does nothing.
	Close() error
}

// CheckName returns an error if the name of an object is invalid. A name has one to
// MaxNameLength bytes of visible ASCII, in non-empty segments joined by single
// slashes, none of them "." or "..", and does not end in ".tmp".
func CheckName(name string) error {
	if name == "" || len(name) > MaxNameLength {
		return fmt.Errorf("%w: object name has %d bytes, it must have 1 to %d", ErrInvalid, len(name), MaxNameLength)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return fmt.Errorf("%w: object name %q has a space or a byte that is not printable ASCII", ErrInvalid, name)
		}
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%w: object name %q has the segment %q", ErrInvalid, name, segment)
		}
	}
	if strings.HasSuffix(name, ".tmp") {
		return fmt.Errorf("%w: object name %q ends in .tmp", ErrInvalid, name)
	}
	return nil
}

// CheckRange returns an error if a range of bytes is invalid for any object.
func CheckRange(off int64, n int) error {
	if off < 0 || n < 1 || n > MaxRange {
		return fmt.Errorf("%w: range of %d bytes from %d: it must start at 0 or later and have 1 to %d bytes", ErrInvalid, n, off, MaxRange)
	}
	return nil
}
