package series

import (
	"math"
	"slices"
)

// IngesterVersion is the version of what an ingester answers for a tenant's samples
// before Bound: while Instance, Epoch and Changes are equal, so are the answers. See
// docs/frontend.md.
type IngesterVersion struct {
	Instance string
	Epoch    uint64 // random, chosen when the process starts
	Changes  uint64 // of the tenant's samples before the bound, since then
	Bound    int64  // Unix milliseconds; never decreases within an epoch
}

// same reports whether two versions are of the same answers.
func (v IngesterVersion) same(o IngesterVersion) bool {
	return v.Instance == o.Instance && v.Epoch == o.Epoch && v.Changes == o.Changes
}

// DayVersion is the version of the long-term store's samples of a tenant's UTC day. Days
// without samples have none.
type DayVersion struct {
	Day    int64 // since 1970
	Digest [16]byte
}

// StoreVersion is the version of the long-term store's samples of a tenant in a range of
// days.
type StoreVersion struct {
	Deletions [16]byte     // digest of the tenant's deletions of series
	Days      []DayVersion // ascending
}

// Within returns the version of a part of the days, first to last.
func (v *StoreVersion) Within(first, last int64) StoreVersion {
	out := StoreVersion{Deletions: v.Deletions}
	for _, d := range v.Days {
		if d.Day >= first && d.Day <= last {
			out.Days = append(out.Days, d)
		}
	}
	return out
}

// Equal reports whether two versions are of the same samples.
func (v *StoreVersion) Equal(o *StoreVersion) bool {
	return v.Deletions == o.Deletions && slices.Equal(v.Days, o.Days)
}

// Versions is what the answers to queries of a tenant depend on besides the query.
type Versions struct {
	Ingesters []IngesterVersion // of all ingesters of the ring
	Store     StoreVersion
}

// Bound returns the smallest bound of the ingesters: samples at or after it are added
// without a change of the versions. Unix milliseconds.
func (v *Versions) Bound() int64 {
	bound := int64(math.MaxInt64)
	for _, i := range v.Ingesters {
		bound = min(bound, i.Bound)
	}
	return bound
}

// Confirms reports whether samples before the bound are as they were when the ingesters
// had the given versions: all ingesters are among the given ones, and unchanged.
func (v *Versions) Confirms(then []IngesterVersion) bool {
	return len(v.Ingesters) > 0 &&
		!slices.ContainsFunc(v.Ingesters, func(now IngesterVersion) bool { return !slices.ContainsFunc(then, now.same) })
}
