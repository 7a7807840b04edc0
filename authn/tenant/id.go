// Package tenant has the nouns of tenancy that every other package speaks in:
// the validated tenant ID, the Identity that a credential proves, and the
// Access that the edge grants to one request, with the one way in which an
// Access travels in a context and in headers.
//
// It imports nothing of the project and does no I/O.
package tenant

import (
	"errors"
	"fmt"
)

// MaxIDLength is the longest tenant ID in bytes. It is Mimir's limit, so that
// a tenant of an existing Mimir or Cortex keeps its name here.
const MaxIDLength = 150

// ID is a tenant's name. An ID made by ParseID is valid; a plain conversion
// from string is for constants and tests only.
type ID string

// Self is the built-in tenant that Pallium writes its own metrics into.
const Self ID = "pallium"

// ErrUnknown is returned where a tenant is looked up that does not exist, or no
// longer does.
var ErrUnknown = errors.New("tenant does not exist")

var errEmptyID = errors.New("tenant ID is empty")

// ParseID checks s against Mimir's alphabet ([A-Za-z0-9!_.*'()-]) and length,
// and rejects "." and "..", which are path elements.
func ParseID(s string) (ID, error) {
	if s == "" {
		return "", errEmptyID
	}
	if len(s) > MaxIDLength {
		return "", fmt.Errorf("tenant ID is %d bytes long, at most %d are allowed", len(s), MaxIDLength)
	}
	if s == "." || s == ".." {
		return "", fmt.Errorf("tenant ID %q is a path element and not allowed", s)
	}
	for i := 0; i < len(s); i++ {
		if !validIDByte(s[i]) {
			return "", fmt.Errorf("tenant ID %q has the character %q; allowed are letters, digits and !_.*'()-", s, s[i])
		}
	}
	return ID(s), nil
}

func validIDByte(c byte) bool {
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

// PathElement is the ID as one element of a file or object name. The alphabet
// has only one character that is special there, the dot in front: "." and ".."
// are rejected by ParseID, and a hidden file is avoided by escaping it.
func (id ID) PathElement() string {
	if id != "" && id[0] == '.' {
		return "%2E" + string(id[1:])
	}
	return string(id)
}
