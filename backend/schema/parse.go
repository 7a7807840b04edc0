package schema

import (
	"encoding/binary"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// RowKind is the kind of a row, as the byte in its key.
type RowKind byte

// The kinds of rows.
const (
	RowCatalog RowKind = kindCatalog
	RowNames   RowKind = kindNames
	RowPages   RowKind = kindPages
	RowValues  RowKind = kindValues
	RowTenant  RowKind = kindTenant
	RowWork    RowKind = kindWork
	RowGarbage RowKind = kindGarbage
	RowLease   RowKind = kindLease
	RowErasure RowKind = kindErasure
	RowRules   RowKind = kindRules // without a tenant: the tenants with rules
	RowShare   RowKind = kindShare

	RowAlertmanager RowKind = kindAlertmanager
	RowSilences     RowKind = kindSilences
	RowNotification RowKind = kindNotification
)

// Key is a parsed row key. Fields that a kind of row does not have are zero.
type Key struct {
	Row    RowKind
	Tenant tenant.ID
	Day    int64
	Name   string // metric, label, garbage entry, lease, hash of a notification, or tenant of an erasure
	Cut    bool   // the metric or label is truncated in the key, and Name is empty
	Due    int64  // of garbage, Unix milliseconds
	Share  int    // number of a share of the rule groups
}

// ParseKey parses the key of any row. It returns false for keys that no function of this
// package returns.
func ParseKey(key string) (Key, bool) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return Key{}, false
	}
	id, rest, ok := strings.Cut(rest, "\x00")
	if !ok || rest == "" {
		return Key{}, false
	}
	k := Key{Row: RowKind(rest[0])}
	rest = rest[1:]
	if id == "" {
		return k, k.parseSystem(rest)
	}
	t, err := tenant.ParseID(id)
	if err != nil {
		return Key{}, false
	}
	k.Tenant = t
	return k, k.parseTenant(rest)
}

// parseTenant parses the part after the kind in a tenant's key.
func (k *Key) parseTenant(rest string) bool {
	switch k.Row {
	case RowCatalog, RowNames:
		return k.parseDay(rest)
	case RowPages, RowValues:
		var ok bool
		k.Name, rest, k.Cut, ok = parseText(rest)
		return ok && k.parseDay(rest)
	case RowTenant, RowRules, RowAlertmanager, RowSilences:
		return rest == ""
	case RowNotification:
		k.Name = rest
		return len(rest) == hashSize
	}
	return false
}

// parseSystem parses the part after the kind in a key without a tenant.
func (k *Key) parseSystem(rest string) bool {
	switch k.Row {
	case RowWork:
		return k.parseDay(rest)
	case RowGarbage:
		if len(rest) < 8 {
			return false
		}
		due := binary.BigEndian.Uint64([]byte(rest[:8]))
		k.Due, k.Name = int64(due), rest[8:]
		return due < 1<<63
	case RowRules:
		return rest == ""
	case RowLease, RowErasure:
		k.Name = rest
		return true
	case RowShare:
		if len(rest) != 2 {
			return false
		}
		k.Share = int(binary.BigEndian.Uint16([]byte(rest)))
		return true
	}
	return false
}

func (k *Key) parseDay(rest string) bool {
	if len(rest) != 4 {
		return false
	}
	k.Day = int64(binary.BigEndian.Uint32([]byte(rest)))
	return k.Day <= MaxDay
}

// ParseCatalogKey parses a key of CatalogKey.
func ParseCatalogKey(key string) (t tenant.ID, day int64, ok bool) {
	k, ok := ParseKey(key)
	return k.Tenant, k.Day, ok && k.Row == RowCatalog
}

// ParseNamesKey parses a key of NamesKey.
func ParseNamesKey(key string) (t tenant.ID, day int64, ok bool) {
	k, ok := ParseKey(key)
	return k.Tenant, k.Day, ok && k.Row == RowNames
}

// ParsePagesKey parses a key of PagesKey. The metric is empty if it is truncated in the key.
func ParsePagesKey(key string) (t tenant.ID, metric string, day int64, ok bool) {
	k, ok := ParseKey(key)
	return k.Tenant, k.Name, k.Day, ok && k.Row == RowPages
}

// ParseValuesKey parses a key of ValuesKey. The label is empty if it is truncated in the key.
func ParseValuesKey(key string) (t tenant.ID, label string, day int64, ok bool) {
	k, ok := ParseKey(key)
	return k.Tenant, k.Name, k.Day, ok && k.Row == RowValues
}

// ParseWorkKey parses a key of WorkKey.
func ParseWorkKey(key string) (day int64, ok bool) {
	k, ok := ParseKey(key)
	return k.Day, ok && k.Row == RowWork
}
