// Package schema encodes and decodes the keys, qualifiers and values of the long-term store's
// rows. No other package knows their bytes, except package index those of two cells: the
// recorded retention of a tenant and the totals of an erasure. docs/format/index.md describes
// all in tables. The package is independent of the row store: keys are strings, and ranges
// pairs of strings.
package schema

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// root is the first byte of every key. Keys of control data begin with another byte.
const root = "\x01"

// Kinds of rows: first the rows of tenants, then the rows without a tenant.
const (
	kindCatalog      = 'C'
	kindNames        = 'D'
	kindPages        = 'M'
	kindValues       = 'V'
	kindTenant       = 'T'
	kindWork         = 'W'
	kindGarbage      = 'G'
	kindLease        = 'L'
	kindErasure      = 'E'
	kindRules        = 'R' // in keys of a tenant, and in keys without a tenant
	kindShare        = 'P'
	kindAlertmanager = 'A'
	kindSilences     = 'S'
	kindNotification = 'N'
)

// maxText is the greatest length in bytes of a metric or label name that is in a key in full. A
// longer name is truncated to maxText, followed by a zero byte and the first bytes of its hash.
// The result is longer than maxText, so it differs from every name that is in full.
const (
	maxText  = 1 << 10
	hashSize = 16
	cutText  = maxText + 1 + hashSize
)

// TenantPrefix returns the prefix of the keys of all rows of a tenant.
func TenantPrefix(t tenant.ID) string { return root + string(t) + "\x00" }

// MaxDay is the last valid day in a key. The first is 0, 1970-01-01.
const MaxDay = 1<<31 - 1

// noDay is used in keys for days outside 0 to MaxDay. No range of days contains it, but
// WorkRange does. ParseKey rejects it.
const noDay = 1<<32 - 1

func dayBytes(day int64) string {
	if day < 0 || day > MaxDay {
		day = noDay
	}
	return string(binary.BigEndian.AppendUint32(nil, uint32(day)))
}

// text encodes a user's string for a key: it escapes 00 and appends a terminator, so that a
// string sorts before the longer strings that begin with it.
func text(s string) string {
	if len(s) > maxText {
		sum := sha256.Sum256([]byte(s))
		s = s[:maxText] + "\x00" + string(sum[:hashSize])
	}
	return strings.ReplaceAll(s, "\x00", "\x00\xff") + "\x00\x01"
}

// parseText decodes a string encoded by text, and returns the rest of the key. For a truncated
// name it returns an empty string, and cut is true.
func parseText(key string) (s, rest string, cut, ok bool) {
	var b strings.Builder
	for i := 0; i+1 < len(key); i++ {
		if key[i] != 0 {
			b.WriteByte(key[i])
			continue
		}
		switch key[i+1] {
		case 0x01:
			switch n := b.Len(); {
			case n <= maxText:
				return b.String(), key[i+2:], false, true
			case n == cutText && b.String()[maxText] == 0:
				return "", key[i+2:], true, true
			}
			return "", "", false, false
		case 0xff:
			b.WriteByte(0)
			i++
		default:
			return "", "", false, false
		}
	}
	return "", "", false, false
}

// days returns the range of keys of the days `first` to `last` with a prefix. The range is empty
// if there is no such valid day.
func days(prefix string, first, last int64) (start, end string) {
	first, last = max(first, 0), min(last, MaxDay)
	if first > last {
		start = prefix + dayBytes(0)
		return start, start
	}
	return prefix + dayBytes(first), prefix + string(binary.BigEndian.AppendUint32(nil, uint32(last)+1))
}

// CatalogKey returns the key of the row with the manifest and L0 packs of a tenant's day.
func CatalogKey(t tenant.ID, day int64) string {
	return TenantPrefix(t) + string(kindCatalog) + dayBytes(day)
}

// CatalogRange returns the range of CatalogKey for the days `first` to `last`.
func CatalogRange(t tenant.ID, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindCatalog), first, last)
}

// NamesKey returns the key of the row with the metric and label names of a tenant's day.
func NamesKey(t tenant.ID, day int64) string {
	return TenantPrefix(t) + string(kindNames) + dayBytes(day)
}

// NamesRange returns the range of NamesKey for the days `first` to `last`.
func NamesRange(t tenant.ID, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindNames), first, last)
}

// PagesKey returns the key of the row with the pages of a metric's day.
func PagesKey(t tenant.ID, metric string, day int64) string {
	return TenantPrefix(t) + string(kindPages) + text(metric) + dayBytes(day)
}

// PagesRange returns the range of PagesKey for the days `first` to `last`.
func PagesRange(t tenant.ID, metric string, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindPages)+text(metric), first, last)
}

// ValuesKey returns the key of the row with the values of a label's day.
func ValuesKey(t tenant.ID, label string, day int64) string {
	return TenantPrefix(t) + string(kindValues) + text(label) + dayBytes(day)
}

// ValuesRange returns the range of ValuesKey for the days `first` to `last`.
func ValuesRange(t tenant.ID, label string, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindValues)+text(label), first, last)
}

// TenantKey returns the key of the row with a tenant's deletions of series and the
// retention of its cells.
func TenantKey(t tenant.ID) string { return TenantPrefix(t) + string(kindTenant) }

// system returns the prefix of the keys of a kind of rows without a tenant. It cannot be the
// prefix of a tenant, because a tenant's ID is not empty.
func system(kind byte) string { return root + "\x00" + string(kind) }

// WorkKey returns the key of the row with the pending work of a UTC day, of all tenants.
func WorkKey(day int64) string { return system(kindWork) + dayBytes(day) }

// WorkRange returns the range of all keys of WorkKey.
func WorkRange() (start, end string) { return system(kindWork), system(kindWork + 1) }

// GarbageKey returns the key of a garbage entry that is due at a time in Unix milliseconds. A
// time before 1970 counts as 0.
func GarbageKey(due int64, name string) string { return system(kindGarbage) + dueBytes(due) + name }

// GarbageRange returns the range of GarbageKey for entries that are due at a time.
func GarbageRange(now int64) (start, end string) {
	return system(kindGarbage), system(kindGarbage) + string(binary.BigEndian.AppendUint64(nil, uint64(max(now, 0))+1))
}

func dueBytes(due int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(max(due, 0))))
}

// LeaseKey returns the key of the row of a lease.
func LeaseKey(name string) string { return system(kindLease) + name }

// ErasureKey returns the key of the row with the totals erased of a deleted tenant. It does not
// have the tenant's prefix, so that it is not erased with the tenant's rows.
func ErasureKey(t tenant.ID) string { return system(kindErasure) + string(t) }

// ShareKey returns the key of the row of a share of the rule groups. Shares are numbered from 0
// to 65535.
func ShareKey(share int) string {
	return system(kindShare) + string(binary.BigEndian.AppendUint16(nil, uint16(share)))
}

// ShareRange returns the range of ShareKey for the shares 0 to count-1.
func ShareRange(count int) (start, end string) {
	return ShareKey(0), ShareKey(count-1) + "\x00"
}

// FirstTenant sorts before the keys of all tenants, EndOfTenants after them.
const (
	FirstTenant  = root + "\x01"
	EndOfTenants = "\x02"
)

// TenantOf returns the tenant of a tenant's row, even if the kind of row is unknown to this
// version.
func TenantOf(key string) (tenant.ID, bool) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return "", false
	}
	id, _, ok := strings.Cut(rest, "\x00")
	t, err := tenant.ParseID(id)
	return t, ok && err == nil
}
