package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// Version returns the version of a tenant's samples in the days of a range (Unix
// milliseconds): digests of the manifest and the L0 packs of each day, and of the deletions
// of series, pending ones included. It reads the index once.
func (s *Store) Version(ctx context.Context, id tenant.ID, mint, maxt int64) (series.StoreVersion, error) {
	first, last, ok := DayRange(mint, maxt)
	if !ok {
		first, last = 0, -1 // no day, only deletions
	}
	catalogs, deletions, err := s.index.Catalogs.Versioned(ctx, id, first, last)
	if err != nil {
		return series.StoreVersion{}, err
	}
	out := series.StoreVersion{Deletions: deletionsDigest(deletions)}
	for i := range catalogs {
		out.Days = append(out.Days, series.DayVersion{Day: catalogs[i].Day, Digest: catalogDigest(&catalogs[i])})
	}
	return out, nil
}

func catalogDigest(c *Catalog) [16]byte {
	var b []byte
	if c.Manifest != nil {
		b = c.Manifest.Encode()
	}
	b = binary.AppendUvarint(b, uint64(len(b)))
	// A day that expired has a fence for a week, which distinguishes it from a day that
	// never had samples.
	b = append(b, c.Fingerprint()...)
	l0 := slices.Clone(c.L0)
	slices.SortFunc(l0, func(a, b L0) int { return a.ID.Compare(b.ID) })
	for i := range l0 {
		b = append(b, l0[i].ID[:]...)
	}
	return digest(b)
}

func deletionsDigest(d Deletions) [16]byte {
	var list []string
	for i := range d {
		list = append(list, string(d[i].Encode())) // has number and state
	}
	slices.Sort(list)
	return digest([]byte(strings.Join(list, "\n")))
}

func digest(b []byte) [16]byte {
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}
