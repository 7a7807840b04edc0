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
	Domain   string // failure domain, by which the ring knows it
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
	Ingesters []IngesterVersion // of those that are available
	Domains   map[string]int    // ingesters of the ring by failure domain
	Needed    int               // complete domains that have every acknowledged sample together
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

// Confirms reports whether an answer that was read from ingesters of the given versions has
// every sample before the bound that is acknowledged now: all ingesters of enough domains are
// among the given ones, and unchanged.
func (v *Versions) Confirms(then []IngesterVersion) bool {
	same := map[string]int{}
	for _, now := range v.Ingesters {
		if slices.ContainsFunc(then, now.same) {
			same[now.Domain]++
		}
	}
	complete := 0
	for domain, all := range v.Domains {
		if same[domain] == all {
			complete++
		}
	}
	return v.Needed > 0 && complete >= v.Needed
}

// Of returns the versions of the ingesters with the given IDs.
func (v *Versions) Of(ids []string) []IngesterVersion {
	return slices.DeleteFunc(slices.Clone(v.Ingesters), func(i IngesterVersion) bool { return !slices.Contains(ids, i.Instance) })
}

// Both returns the versions that two lists have.
func Both(a, b []IngesterVersion) []IngesterVersion {
	return slices.DeleteFunc(slices.Clone(a), func(i IngesterVersion) bool { return !slices.ContainsFunc(b, i.same) })
}
