package schema

import (
	"encoding/binary"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
)

// AsidePrefix is the prefix of the qualifiers of records of series set aside, in a work
// row.
const AsidePrefix = "a/"

// AsideQualifier returns the qualifier of the record of the series of one tenant that an
// ingester set aside in a window of the row's day.
func AsideQualifier(window int, ingester string, t tenant.ID) string {
	return AsidePrefix + string(byte(window)) + ingester + "/" + string(t)
}

// ParseAsideQualifier parses a qualifier of AsideQualifier.
func ParseAsideQualifier(q string) (window int, ingester string, t tenant.ID, ok bool) {
	rest, ok := strings.CutPrefix(q, AsidePrefix)
	if !ok || len(rest) < 4 || rest[0] > 11 {
		return 0, "", "", false
	}
	ingester, id, ok := strings.Cut(rest[1:], "/")
	if !ok || ingester == "" {
		return 0, "", "", false
	}
	t, err := tenant.ParseID(id)
	return int(rest[0]), ingester, t, err == nil
}

// Aside describes series of one tenant and window that an ingester keeps in separate
// files, because no pack can contain them.
type Aside struct {
	Since   int64 // Unix milliseconds
	Zone    string
	Series  int64
	Samples int64
	Bytes   int64  // size of the files
	Reason  string // why one of the series was rejected
	Dropped int64  // when an operator dropped them, Unix milliseconds; 0 = not dropped
}

// Encode returns the value of the cell.
func (a *Aside) Encode() []byte {
	b := appendText(appendVarint(nil, a.Since), a.Zone)
	for _, n := range []int64{a.Series, a.Samples, a.Bytes} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	return seal(valueAside, 1, appendVarint(appendText(b, a.Reason), a.Dropped))
}

// DecodeAside decodes the value of the cell.
func DecodeAside(value []byte) (Aside, error) {
	b, err := open(valueAside, 1, "record of series set aside", value)
	if err != nil {
		return Aside{}, err
	}
	r := &reader{b: b}
	a := Aside{Since: r.varint("time"), Zone: r.text("zone"), Series: r.int63("series"), Samples: r.int63("samples"), Bytes: r.int63("bytes"),
		Reason: r.text("reason"), Dropped: r.varint("time of dropping")}
	return a, r.end("record of series set aside")
}
