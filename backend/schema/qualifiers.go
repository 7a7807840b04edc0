package schema

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Version identifies one attempt to write a generation of a tenant's day.
type Version struct {
	Generation uint32 // 1, 2, ...; 0 means none
	Attempt    uint64 // random
}

// Prefix returns the prefix of the qualifiers of all cells of the version. Newer generations
// sort first.
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

// PageQualifier returns the qualifier of a page of a metric. `part` is the ordinal of its pack in
// the manifest, `page` the ordinal of the page among the metric's pages in the pack.
func PageQualifier(v Version, part, page int) string { return qualifier(v, KindPage, part, page) }

// SummariesQualifier returns the qualifier of the summaries of a metric's pages in a pack.
func SummariesQualifier(v Version, part int) string { return qualifier(v, KindSummaries, part) }

// NamesQualifier returns the qualifier of the names of a pack.
func NamesQualifier(v Version, part int) string { return qualifier(v, KindNames, part) }

// ValuesQualifier returns the qualifier of a bucket of a label's values in a pack.
func ValuesQualifier(v Version, part, bucket int) string {
	return qualifier(v, KindValues, part, bucket)
}

// MaxIndex is the largest number of packs of a generation and, in one pack, of pages of a
// metric and of buckets of a label.
const MaxIndex = 1 << 16

// ParseQualifier parses the qualifier of a versioned cell. index is 0 for kinds without one.
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
	VersionQualifier       = "g"   // catalog row: VersionCell
	L0Prefix               = "l0/" // catalog row
	IntentPrefix           = "i/"  // work row
	ReceiptPrefix          = "r/"  // work row
	RewritePrefix          = "d/"  // work row: a tenant whose day must be rewritten without deleted series
	CleanPrefix            = "c/"  // work row: like RewritePrefix, but now, before the day is due; 8 bytes, Unix milliseconds
	TombstonePrefix        = "t/"  // tenant row: active deletions
	PendingPrefix          = "p/"  // tenant row: reserved deletions
	LastTombstoneQualifier = "n"   // tenant row: number of the last deletion, 8 bytes
	GarbageQualifier       = "g"   // garbage row
	LeaseQualifier         = "h"   // lease row
	ShareQualifier         = "h"   // share row
)

// L0Qualifier returns the qualifier of an L0 pack in a catalog row.
func L0Qualifier(id ulid.ULID) string { return L0Prefix + string(id[:]) }

// ParseL0Qualifier parses a qualifier of L0Qualifier.
func ParseL0Qualifier(q string) (ulid.ULID, bool) { return parseID(q, L0Prefix) }

// ReceiptQualifier returns the qualifier of a pack's receipt in a work row.
func ReceiptQualifier(id ulid.ULID) string { return ReceiptPrefix + string(id[:]) }

// ParseReceiptQualifier parses a qualifier of ReceiptQualifier.
func ParseReceiptQualifier(q string) (ulid.ULID, bool) { return parseID(q, ReceiptPrefix) }

func parseID(q, prefix string) (id ulid.ULID, ok bool) {
	rest, ok := strings.CutPrefix(q, prefix)
	if !ok || len(rest) != len(id) {
		return id, false
	}
	copy(id[:], rest)
	return id, true
}

// IntentQualifier returns the qualifier of an ingester's intent for a window of the day.
func IntentQualifier(window int, ingester string) string {
	return IntentPrefix + string(byte(window)) + ingester
}

// ParseIntentQualifier parses a qualifier of IntentQualifier.
func ParseIntentQualifier(q string) (window int, ingester string, ok bool) {
	rest, ok := strings.CutPrefix(q, IntentPrefix)
	if !ok || len(rest) < 2 || rest[0] > 11 {
		return 0, "", false
	}
	return int(rest[0]), rest[1:], true
}

// RewriteQualifier returns the qualifier of a request to rewrite a tenant's day.
func RewriteQualifier(t tenant.ID) string { return RewritePrefix + string(t) }

// CleanQualifier returns the qualifier of a tenant's request to rewrite a day now.
func CleanQualifier(t tenant.ID) string { return CleanPrefix + string(t) }

// TombstoneQualifier returns the qualifier of an active deletion.
func TombstoneQualifier(number uint64) string { return numbered(TombstonePrefix, number) }

// PendingQualifier returns the qualifier of a pending deletion.
func PendingQualifier(number uint64) string { return numbered(PendingPrefix, number) }

func numbered(prefix string, n uint64) string {
	return prefix + string(binary.BigEndian.AppendUint64(nil, n))
}
