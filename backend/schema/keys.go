// Package schema is the layout of the long-term store's rows: the only place
// that knows the bytes of their keys, qualifiers and values. docs/format/index.md
// has them as tables. It knows no store: keys are strings and ranges pairs of
// them.
package schema

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Every key begins with this byte; control data has another one.
const root = "\x01"

// Kinds of a tenant's rows, and of rows of no tenant.
const (
	kindCatalog = 'C'
	kindNames   = 'D'
	kindPages   = 'M'
	kindValues  = 'V'
	kindTenant  = 'T'
	kindWork    = 'W'
	kindGarbage = 'G'
	kindLease   = 'L'
	kindErasure = 'E'
)

// maxText is the length in bytes up to which a metric or label name is in a key
// as it is. A longer one is cut there, and a zero byte and the start of its hash
// tell it apart; the result is longer than maxText, so it is never another name.
const (
	maxText  = 1 << 10
	hashSize = 16
	cutText  = maxText + 1 + hashSize
)

// TenantPrefix is the beginning of all rows of a tenant.
func TenantPrefix(t tenant.ID) string { return root + string(t) + "\x00" }

// MaxDay is the last day that keys can name; the first is 0, 1970-01-01.
const MaxDay = 1<<31 - 1

// noDay stands in keys for days outside 0 to MaxDay: no range has it, and
// ParseKey rejects it.
const noDay = 1<<32 - 1

func dayBytes(day int64) string {
	if day < 0 || day > MaxDay {
		day = noDay
	}
	return string(binary.BigEndian.AppendUint32(nil, uint32(day)))
}

// text is a user's string in a key: 00 is escaped, and the end is marked so that
// a string sorts before those it begins.
func text(s string) string {
	if len(s) > maxText {
		sum := sha256.Sum256([]byte(s))
		s = s[:maxText] + "\x00" + string(sum[:hashSize])
	}
	return strings.ReplaceAll(s, "\x00", "\x00\xff") + "\x00\x01"
}

// parseText reads what text wrote, and what follows. The name of a key that was
// cut is not known: it comes back empty, with cut.
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

// days is the range of keys of the days first to last under a prefix. It is
// empty when there is no such day.
func days(prefix string, first, last int64) (start, end string) {
	first, last = max(first, 0), min(last, MaxDay)
	if first > last {
		start = prefix + dayBytes(0)
		return start, start
	}
	return prefix + dayBytes(first), prefix + string(binary.BigEndian.AppendUint32(nil, uint32(last)+1))
}

// CatalogKey is the row of a tenant's day with its manifest and L0 packs.
func CatalogKey(t tenant.ID, day int64) string {
	return TenantPrefix(t) + string(kindCatalog) + dayBytes(day)
}

// CatalogRange is the rows of CatalogKey of the days first to last.
func CatalogRange(t tenant.ID, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindCatalog), first, last)
}

// NamesKey is the row of a tenant's day with its metric and label names.
func NamesKey(t tenant.ID, day int64) string {
	return TenantPrefix(t) + string(kindNames) + dayBytes(day)
}

// NamesRange is the rows of NamesKey of the days first to last.
func NamesRange(t tenant.ID, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindNames), first, last)
}

// PagesKey is the row of a metric's day with its pages.
func PagesKey(t tenant.ID, metric string, day int64) string {
	return TenantPrefix(t) + string(kindPages) + text(metric) + dayBytes(day)
}

// PagesRange is the rows of PagesKey of the days first to last.
func PagesRange(t tenant.ID, metric string, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindPages)+text(metric), first, last)
}

// ValuesKey is the row of a label's day with its values.
func ValuesKey(t tenant.ID, label string, day int64) string {
	return TenantPrefix(t) + string(kindValues) + text(label) + dayBytes(day)
}

// ValuesRange is the rows of ValuesKey of the days first to last.
func ValuesRange(t tenant.ID, label string, first, last int64) (start, end string) {
	return days(TenantPrefix(t)+string(kindValues)+text(label), first, last)
}

// TenantKey is the row with a tenant's deletions of series.
func TenantKey(t tenant.ID) string { return TenantPrefix(t) + string(kindTenant) }

// system is the beginning of rows of no tenant: no tenant's ID is empty.
func system(kind byte) string { return root + "\x00" + string(kind) }

// WorkKey is the row of a UTC day with intents and receipts of all ingesters.
func WorkKey(day int64) string { return system(kindWork) + dayBytes(day) }

// WorkRange is all rows of WorkKey.
func WorkRange() (start, end string) { return system(kindWork), system(kindWork + 1) }

// GarbageKey is the row of something that is to be looked at, at a time in Unix
// milliseconds; what was due before 1970 is due then.
func GarbageKey(due int64, name string) string { return system(kindGarbage) + dueBytes(due) + name }

// GarbageRange is the rows of GarbageKey that are due at a time.
func GarbageRange(now int64) (start, end string) {
	return system(kindGarbage), system(kindGarbage) + string(binary.BigEndian.AppendUint64(nil, uint64(max(now, 0))+1))
}

func dueBytes(due int64) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(max(due, 0))))
}

// LeaseKey is the row of a lease.
func LeaseKey(name string) string { return system(kindLease) + name }

// ErasureKey is the row with what was erased of a deleted tenant. It is no
// tenant's row, so that it outlives those.
func ErasureKey(t tenant.ID) string { return system(kindErasure) + string(t) }

// FirstTenant is before the rows of all tenants, EndOfTenants behind them.
const (
	FirstTenant  = root + "\x01"
	EndOfTenants = "\x02"
)

// TenantOf is the tenant of a key, for rows of tenants, of kinds that this version
// does not know too.
func TenantOf(key string) (tenant.ID, bool) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return "", false
	}
	id, _, ok := strings.Cut(rest, "\x00")
	t, err := tenant.ParseID(id)
	return t, ok && err == nil
}
