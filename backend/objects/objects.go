// Package objects is the port to the store of immutable blobs that holds the
// packs: Cloud Storage in a cluster, a directory on one machine. It has the
// Store interface and the checks of names and ranges that every adapter makes
// first. Package objecttest is its contract in executable form.
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
	MaxNameLength = 900     // bytes; Cloud Storage takes 1024
	MaxRange      = 1 << 30 // bytes of one Get
)

// Errors of every store. Their wrappings name the object.
var (
	ErrNotFound = errors.New("object does not exist")
	// ErrExists is Put's answer when an object of the name is there with other
	// bytes. What is there stays as it is.
	ErrExists  = errors.New("object exists with other content")
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
// segments joined by slashes. An object appears whole or not at all.
//
// Rules that hold for all methods:
//   - What a call has reported as stored or deleted survives a crash of the
//     machine, and is seen by every call that begins afterwards.
//   - A mistake of the caller is ErrInvalid. After Close every call returns
//     ErrClosed.
//   - Any other error, of the context too, leaves open whether a Put or Delete
//     has happened; both may simply be repeated.
//   - All methods may be called at the same time from many goroutines.
type Store interface {
	// Put stores the file at path under a name that no object has. The file is
	// complete and on disk, and is never changed afterwards: an adapter may link
	// to it instead of copying; removing it later does not touch the object. crc
	// is the CRC-32C of its bytes: an adapter that copies checks it, and so does
	// the service that it copies to. Where the name is taken by an object of the
	// same size and CRC, Put returns that object as if it had stored it; by
	// another, ErrExists.
	Put(ctx context.Context, name, path string, crc uint32) (Object, error)

	// Get returns the n bytes from off, all of them or an error; a range that
	// reaches beyond the end is ErrInvalid. The bytes belong to the caller.
	// ErrNotFound when there is no such object.
	Get(ctx context.Context, name string, off int64, n int) ([]byte, error)

	// Stat describes an object, or returns ErrNotFound.
	Stat(ctx context.Context, name string) (Object, error)

	// List calls visit for each object whose name starts with prefix, in the
	// order of names as bytes, until visit returns false; their CRC is left out.
	// Objects put or deleted meanwhile may be seen or not. visit may call the
	// store.
	List(ctx context.Context, prefix string, visit func(Object) bool) error

	// Delete deletes an object. There being none is no error.
	Delete(ctx context.Context, name string) error

	// Close releases the store. A second Close does nothing.
	Close() error
}

// CheckName reports what is wrong with the name of an object: it must be one to
// MaxNameLength bytes of printable ASCII in non-empty segments joined by single
// slashes, none of them "." or "..", and it must not end in ".tmp".
func CheckName(name string) error {
	if name == "" || len(name) > MaxNameLength {
		return fmt.Errorf("%w: object name has %d bytes, 1 to %d are allowed", ErrInvalid, len(name), MaxNameLength)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' {
			return fmt.Errorf("%w: object name %q has a byte that is not printable ASCII", ErrInvalid, name)
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

// CheckRange reports what is wrong with a range of bytes, whatever the object.
func CheckRange(off int64, n int) error {
	if off < 0 || n < 1 || n > MaxRange {
		return fmt.Errorf("%w: range of %d bytes from %d; it must have 1 to %d bytes", ErrInvalid, n, off, MaxRange)
	}
	return nil
}
