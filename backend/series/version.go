package series

import (
	"math"
	"slices"
)

// IngesterVersion is the version of a tenant's samples on an ingester: while Instance,
// Epoch and Changes are equal, the ingester returns the same samples for times before
// Bound, and while Recent is equal too, also for times before RecentBound. See
// docs/frontend.md.
type IngesterVersion struct {
	Instance string
	Epoch    uint64 // random, chosen when the process starts
	Changes  uint64 // number of changes of the tenant's samples before Bound since the start of the process
	Recent   uint64 // number of changes of the samples from Bound to RecentBound
	Bound    int64  // Unix milliseconds; never decreases within an epoch
	// RecentBound is at or after Bound, and never decreases either.
	RecentBound int64
	Domain      string // failure domain of the ingester in the ring
}

// same reports whether both versions have the same samples before Bound, or before RecentBound
// if recent is true.
func (v *IngesterVersion) same(o *IngesterVersion, recent bool) bool {
	return v.Instance == o.Instance && v.Epoch == o.Epoch && v.Changes == o.Changes && (!recent || v.Recent == o.Recent)
}

// in reports whether a list has the same version; see same.
func (v *IngesterVersion) in(list []IngesterVersion, recent bool) bool {
	for i := range list {
		if v.same(&list[i], recent) {
			return true
		}
	}
	return false
}

// DayVersion is the version of the long-term store's samples of a tenant's UTC day. A day
// that never had samples has no version.
type DayVersion struct {
	Day    int64 // days since 1970-01-01
	Digest [16]byte
}

// StoreVersion is the version of the long-term store's samples of a tenant in a range of
// days.
type StoreVersion struct {
	Deletions [16]byte     // digest of the tenant's deletions of series
	Days      []DayVersion // ascending
}

// Within returns the version of a part of the days, `first` to `last`.
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

// Versions are the versions of all data of a tenant that the result of a query
// depends on.
type Versions struct {
	Ingesters []IngesterVersion // of the available ingesters
	Domains   map[string]int    // ingesters of the ring by failure domain
	Needed    int               // complete domains that have every acknowledged sample together
	Store     StoreVersion
}

// Bounds returns the smallest bounds of the ingesters in Unix milliseconds. Samples at or after
// `recent` are added without a change of the versions. Samples before `recent` change the field
// Recent, and samples before `bound` change the field Changes.
func (v *Versions) Bounds() (bound, recent int64) {
	bound, recent = math.MaxInt64, math.MaxInt64
	for i := range v.Ingesters {
		bound = min(bound, v.Ingesters[i].Bound)
		recent = min(recent, v.Ingesters[i].RecentBound)
	}
	return bound, max(bound, recent)
}

// Confirms reports whether a result that was read from ingesters of the given versions has all
// samples before Bound (before RecentBound if recent is true) that are acknowledged by now. That
// is so if enough failure domains are complete: every ingester of the domain is among the given
// ones, with the same version.
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

// Both returns the versions of a that are also in b; see same.
func Both(a, b []IngesterVersion, recent bool) []IngesterVersion {
	return slices.DeleteFunc(slices.Clone(a), func(i IngesterVersion) bool { return !i.in(b, recent) })
}
