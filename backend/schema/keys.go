// Package schema is the layout of the long-term store's rows: the only place
// that knows the bytes of their keys, qualifiers and values. docs/format/index.md
// has them as tables. It knows no store: keys are strings and ranges pairs of
// them.
package schema

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

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
)

// maxText is the length in bytes from which a metric or label name is cut and
// told apart by a hash, so that keys stay short.
const maxText = 1 << 10

// TenantPrefix is the beginning of all rows of a tenant.
func TenantPrefix(t tenant.ID) string { return root + string(t) + "\x00" }

func dayBytes(day int64) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(day)))
}

// text is a user's string in a key: 00 is escaped, and the end is marked so that
// a string sorts before those it begins.
func text(s string) string {
	if len(s) > maxText {
		sum := sha256.Sum256([]byte(s))
		s = s[:maxText] + "\x00" + string(sum[:16])
	}
	return strings.ReplaceAll(s, "\x00", "\x00\xff") + "\x00\x01"
}

// parseText reads what text wrote. A name that was cut comes back cut.
func parseText(key string) (s, rest string, ok bool) {
	var b strings.Builder
	for i := 0; i+1 < len(key); i++ {
		if key[i] != 0 {
			b.WriteByte(key[i])
			continue
		}
		switch key[i+1] {
		case 0x01:
			return b.String(), key[i+2:], true
		case 0xff:
			b.WriteByte(0)
			i++
		default:
			return "", "", false
		}
	}
	return "", "", false
}

// days is the range of keys of the days first to last under a prefix.
func days(prefix string, first, last int64) (start, end string) {
	start = prefix + dayBytes(first)
	if last >= 1<<32-1 {
		return start, prefix + "\xff\xff\xff\xff\x00"
	}
	return start, prefix + dayBytes(last+1)
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
// milliseconds.
func GarbageKey(due int64, name string) string {
	return system(kindGarbage) + string(binary.BigEndian.AppendUint64(nil, uint64(due))) + name
}

// GarbageRange is the rows of GarbageKey that are due at a time.
func GarbageRange(now int64) (start, end string) {
	return system(kindGarbage), system(kindGarbage) + string(binary.BigEndian.AppendUint64(nil, uint64(now)+1))
}

// LeaseKey is the row of a lease.
func LeaseKey(name string) string { return system(kindLease) + name }

// parseTenant splits a tenant's key into tenant, kind and what follows.
func parseTenant(key string) (t tenant.ID, kind byte, rest string, ok bool) {
	if !strings.HasPrefix(key, root) {
		return "", 0, "", false
	}
	id, rest, found := strings.Cut(key[1:], "\x00")
	if !found || id == "" || rest == "" {
		return "", 0, "", false
	}
	t, err := tenant.ParseID(id)
	return t, rest[0], rest[1:], err == nil
}

func parseDay(s string) (int64, bool) {
	if len(s) != 4 {
		return 0, false
	}
	return int64(binary.BigEndian.Uint32([]byte(s))), true
}

func parseDayKey(key string, want byte) (t tenant.ID, day int64, ok bool) {
	t, kind, rest, ok := parseTenant(key)
	if !ok || kind != want {
		return "", 0, false
	}
	day, ok = parseDay(rest)
	return t, day, ok
}

func parseTextKey(key string, want byte) (t tenant.ID, name string, day int64, ok bool) {
	t, kind, rest, ok := parseTenant(key)
	if !ok || kind != want {
		return "", "", 0, false
	}
	if name, rest, ok = parseText(rest); !ok {
		return "", "", 0, false
	}
	day, ok = parseDay(rest)
	return t, name, day, ok
}

// ParseCatalogKey reads a key of CatalogKey.
func ParseCatalogKey(key string) (t tenant.ID, day int64, ok bool) {
	return parseDayKey(key, kindCatalog)
}

// ParseNamesKey reads a key of NamesKey.
func ParseNamesKey(key string) (t tenant.ID, day int64, ok bool) { return parseDayKey(key, kindNames) }

// ParsePagesKey reads a key of PagesKey. A very long metric name comes back cut.
func ParsePagesKey(key string) (t tenant.ID, metric string, day int64, ok bool) {
	return parseTextKey(key, kindPages)
}

// ParseValuesKey reads a key of ValuesKey. A very long name comes back cut.
func ParseValuesKey(key string) (t tenant.ID, label string, day int64, ok bool) {
	return parseTextKey(key, kindValues)
}

// ParseWorkKey reads a key of WorkKey.
func ParseWorkKey(key string) (day int64, ok bool) {
	rest, ok := strings.CutPrefix(key, system(kindWork))
	if !ok {
		return 0, false
	}
	return parseDay(rest)
}

// Version names one attempt to write a generation of a tenant's day.
type Version struct {
	Generation uint32 // 1, 2, ...; 0 is none
	Attempt    uint64 // random
}

// Prefix is what the qualifiers of all cells of the version begin with. Newer
// generations sort first.
func (v Version) Prefix() string {
	b := binary.BigEndian.AppendUint32(nil, ^v.Generation)
	return string(binary.BigEndian.AppendUint64(b, v.Attempt))
}

func (v Version) String() string { return fmt.Sprintf("%d-%016x", v.Generation, v.Attempt) }

// Kinds of versioned cells. Summaries sort before pages.
const (
	KindSummaries = 'h'
	KindNames     = 'n'
	KindPage      = 'p'
	KindValues    = 'v'
)

func qualifier(v Version, kind byte, part int, index ...int) string {
	b := append([]byte(v.Prefix()), kind)
	b = binary.BigEndian.AppendUint16(b, uint16(part))
	for _, i := range index {
		b = binary.BigEndian.AppendUint16(b, uint16(i))
	}
	return string(b)
}

// PageQualifier is the cell of a metric's page. part is the ordinal of its pack
// in the manifest, page that of the metric's page in the pack.
func PageQualifier(v Version, part, page int) string { return qualifier(v, KindPage, part, page) }

// SummariesQualifier is the cell with the summaries of a metric's pages of a pack.
func SummariesQualifier(v Version, part int) string { return qualifier(v, KindSummaries, part) }

// NamesQualifier is the cell with the names of a pack.
func NamesQualifier(v Version, part int) string { return qualifier(v, KindNames, part) }

// ValuesQualifier is the cell with a bucket of a label's values of a pack.
func ValuesQualifier(v Version, part, bucket int) string {
	return qualifier(v, KindValues, part, bucket)
}

// MaxIndex is the number of pages of a metric, and buckets of a label, that one
// pack can have.
const MaxIndex = 1 << 16

// ParseQualifier reads the qualifier of a versioned cell; index is 0 for kinds
// that have none.
func ParseQualifier(q string) (v Version, kind byte, part, index int, ok bool) {
	if len(q) != 15 && len(q) != 17 {
		return v, 0, 0, 0, false
	}
	b := []byte(q)
	v = Version{Generation: ^binary.BigEndian.Uint32(b), Attempt: binary.BigEndian.Uint64(b[4:])}
	kind, part = b[12], int(binary.BigEndian.Uint16(b[13:]))
	switch kind {
	case KindPage, KindValues:
		if len(b) != 17 {
			return v, 0, 0, 0, false
		}
		return v, kind, part, int(binary.BigEndian.Uint16(b[15:])), true
	case KindNames, KindSummaries:
		return v, kind, part, 0, len(b) == 15
	}
	return v, 0, 0, 0, false
}

// Qualifiers of other cells.
const (
	ManifestQualifier      = "m"   // catalog row
	VersionQualifier       = "g"   // catalog row: Version.Prefix of the manifest
	L0Prefix               = "l0/" // catalog row
	IntentPrefix           = "i/"  // work row
	ReceiptPrefix          = "r/"  // work row
	RewritePrefix          = "d/"  // work row: a tenant with deleted series to take out
	TombstonePrefix        = "t/"  // tenant row: active deletions
	PendingPrefix          = "p/"  // tenant row: reserved deletions
	LastTombstoneQualifier = "n"   // tenant row: last number, 8 bytes
	GarbageQualifier       = "g"   // garbage row
	LeaseQualifier         = "h"   // lease row
)

// L0Qualifier is the cell of an L0 pack in a catalog row.
func L0Qualifier(id ulid.ULID) string { return L0Prefix + string(id[:]) }

// ParseL0Qualifier reads a qualifier of L0Qualifier.
func ParseL0Qualifier(q string) (ulid.ULID, bool) { return parseID(q, L0Prefix) }

// ReceiptQualifier is the cell of a pack's receipt in a work row.
func ReceiptQualifier(id ulid.ULID) string { return ReceiptPrefix + string(id[:]) }

// ParseReceiptQualifier reads a qualifier of ReceiptQualifier.
func ParseReceiptQualifier(q string) (ulid.ULID, bool) { return parseID(q, ReceiptPrefix) }

func parseID(q, prefix string) (id ulid.ULID, ok bool) {
	rest, ok := strings.CutPrefix(q, prefix)
	if !ok || len(rest) != len(id) {
		return id, false
	}
	copy(id[:], rest)
	return id, true
}

// IntentQualifier is the cell of an ingester's intent for a window of the day.
func IntentQualifier(window int, ingester string) string {
	return IntentPrefix + string(byte(window)) + ingester
}

// ParseIntentQualifier reads a qualifier of IntentQualifier.
func ParseIntentQualifier(q string) (window int, ingester string, ok bool) {
	rest, ok := strings.CutPrefix(q, IntentPrefix)
	if !ok || len(rest) < 2 || rest[0] > 11 {
		return 0, "", false
	}
	return int(rest[0]), rest[1:], true
}

// RewriteQualifier asks for the compaction of a tenant's day.
func RewriteQualifier(t tenant.ID) string { return RewritePrefix + string(t) }

// TombstoneQualifier is the cell of an active deletion.
func TombstoneQualifier(number uint64) string { return numbered(TombstonePrefix, number) }

// PendingQualifier is the cell of a deletion that is not active yet.
func PendingQualifier(number uint64) string { return numbered(PendingPrefix, number) }

func numbered(prefix string, n uint64) string {
	return prefix + string(binary.BigEndian.AppendUint64(nil, n))
}
