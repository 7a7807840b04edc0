package series

import (
	"math"
	"slices"
)

// IngesterVersion is the version of what an ingester answers for a tenant's samples: while
// Instance, Epoch and Changes are equal, so are the answers before Bound, and while Recent
// is equal, too, those before RecentBound. See docs/frontend.md.
type IngesterVersion struct {
	Instance string
	Epoch    uint64 // random, chosen when the process starts
	Changes  uint64 // of the tenant's samples before Bound, since then
	Recent   uint64 // of those from Bound to RecentBound
	Bound    int64  // Unix milliseconds; never decreases within an epoch
	// RecentBound is at or after Bound, and never decreases either.
	RecentBound int64
	Domain      string // failure domain, by which the ring knows it
}

// same reports whether two versions are of the same answers before the bound, or with
// recent before the recent bound.
func (v *IngesterVersion) same(o *IngesterVersion, recent bool) bool {
	return v.Instance == o.Instance && v.Epoch == o.Epoch && v.Changes == o.Changes && (!recent || v.Recent == o.Recent)
}

// in reports whether a list has the same version.
func (v *IngesterVersion) in(list []IngesterVersion, recent bool) bool {
	for i := range list {
		if v.same(&list[i], recent) {
			return true
		}
	}
	return false
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

// Bounds returns the smallest bounds of the ingesters: samples at or after the recent one are
// added without a change of the versions, those before it change Recent, and those before
// the other one Changes. Unix milliseconds.
func (v *Versions) Bounds() (bound, recent int64) {
	bound, recent = math.MaxInt64, math.MaxInt64
	for i := range v.Ingesters {
		bound = min(bound, v.Ingesters[i].Bound)
		recent = min(recent, v.Ingesters[i].RecentBound)
	}
	return bound, max(bound, recent)
}

// Confirms reports whether an answer that was read from ingesters of the given versions has
// every sample before the bound, or with recent before the recent bound, that is acknowledged
// now: all ingesters of enough domains are among the given ones, and unchanged.
func (v *Versions) Confirms(then []IngesterVersion, recent bool) bool {
	same := map[string]int{}
	for i := range v.Ingesters {
		if now := &v.Ingesters[i]; now.in(then, recent) {
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

// Both returns the versions of a list that are the same in another one, with recent also for
// recent samples.
func Both(a, b []IngesterVersion, recent bool) []IngesterVersion {
	return slices.DeleteFunc(slices.Clone(a), func(i IngesterVersion) bool { return !i.in(b, recent) })
}
