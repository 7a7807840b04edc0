// Package tenant defines the types of tenancy that all other packages use: the validated
// tenant ID, the Identity that a credential proves, and the Access that the edge grants
// to one request, together with the only way to transport an Access in a context and in
// headers.
//
// It imports no other package of Pallium and does no I/O.
package tenant

import (
	"errors"
	"fmt"
)

// MaxIDLength is the maximum length of a tenant ID in bytes. It is the limit of Mimir, so
// that a tenant of an existing Mimir or Cortex can keep its name.
const MaxIDLength = 150

// ID is a tenant's name. An ID returned by ParseID is valid. A conversion from string does
// not check it: use one only for constants, for stored IDs, for IDs that the callee checks,
// and in tests.
type ID string

// Self is the built-in tenant to which Pallium writes its own metrics.
const Self ID = "pallium"

// ErrUnknown is returned if a tenant does not exist or was deleted.
var ErrUnknown = errors.New("tenant does not exist")

var errEmptyID = errors.New("tenant ID is empty")

// ParseID checks s against Mimir's alphabet ([A-Za-z0-9!_.*'()-]) and length, and rejects
// "." and "..", which are path elements.
func ParseID(s string) (ID, error) {
	if s == "" {
		return "", errEmptyID
	}
	if len(s) > MaxIDLength {
		return "", fmt.Errorf("tenant ID has %d bytes; the limit is %d bytes", len(s), MaxIDLength)
	}
	if s == "." || s == ".." {
		return "", fmt.Errorf("tenant ID %q is not allowed, because it is a path element", s)
	}
	for _, c := range s {
		if !validIDRune(c) {
			return "", fmt.Errorf("tenant ID %q contains the character %q: use only letters, digits and !_.*'()-", s, c)
		}
	}
	return ID(s), nil
}

func validIDRune(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	switch c {
	case '!', '_', '.', '*', '\'', '(', ')', '-':
		return true
	}
	return false
}

// PathElement returns the ID as one element of a file or object name. A leading dot,
// which would make a hidden file, is escaped; "." and ".." are not valid IDs.
func (id ID) PathElement() string {
	if id != "" && id[0] == '.' {
		return "%2E" + string(id[1:])
	}
	return string(id)
}
