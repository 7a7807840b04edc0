package querier

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/series"
)

// fixedStore is a long-term store with one version.
type fixedStore struct {
	version series.StoreVersion
	err     error
}

func (s fixedStore) Version(context.Context, tenant.ID, int64, int64) (series.StoreVersion, error) {
	return s.version, s.err
}

// zones returns a peer in each of three zones, with ingesters that have changed so often.
func zones(changes ...uint64) []*peer {
	var out []*peer
	for _, n := range changes {
		out = append(out, &peer{version: series.IngesterVersion{Epoch: 7, Changes: n, Bound: 1000 * int64(n)}})
	}
	return out
}

func versionsOf(t *testing.T, lost []string, list ...*peer) (series.Versions, error) {
	t.Helper()
	var members []Peer
	for i, p := range list {
		if p != nil {
			members = append(members, Peer{ID: string(rune('a' + i)), Domain: "zone-" + string(rune('a'+i%3)), Client: p})
		}
	}
	in := NewIngesters(IngestersOptions{Tolerate: 1, HedgeAfter: time.Hour,
		Peers: func(context.Context) ([]Peer, error) { return members, nil },
		Lost:  func(context.Context, tenant.ID, int64, int64) ([]string, error) { return lost, nil }})
	t.Cleanup(func() { _ = in.Close() })
	return Versions(t.Context(), in, fixedStore{}, "t", 0, 1)
}

// TestVersions: an answer is current if no ingester of any zone has changed. Two zones of
// three would not do: a sample that zone a had before the first look may be acknowledged
// with c after a read that asked b and c, and a and b would show no change.
func TestVersions(t *testing.T) {
	down := &peer{err: errors.New("down")}
	z := func(changes ...uint64) []*peer { return zones(changes...) }
	then, err := versionsOf(t, nil, z(1, 2, 3)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(then.Ingesters) != 3 || then.Bound() != 1000 {
		t.Fatalf("asked %d ingesters, bound %d; want 3 and 1000", len(then.Ingesters), then.Bound())
	}
	restarted := z(1, 2, 3)
	restarted[0].version.Epoch = 8
	for _, tt := range []struct {
		name string
		now  []*peer
		want bool
	}{
		{"nothing changed", z(1, 2, 3), true},
		{"one zone changed", z(1, 2, 4), false},
		{"another zone changed", z(2, 2, 3), false},
		{"an ingester joined", append(z(1, 2, 3), z(0)...), false},
		{"an ingester restarted", restarted, false},
	} {
		now, err := versionsOf(t, nil, tt.now...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := now.Confirms(then.Ingesters); got != tt.want {
			t.Errorf("%s: confirmed = %t, want %t: %+v", tt.name, got, tt.want, now)
		}
		if now.Confirms(nil) {
			t.Errorf("%s: confirmed an answer without versions", tt.name)
		}
	}
	for name, read := range map[string]func() (series.Versions, error){
		"a zone is down":        func() (series.Versions, error) { return versionsOf(t, nil, down, z(1, 2)[1], z(1, 2, 3)[2]) },
		"a zone counts as lost": func() (series.Versions, error) { return versionsOf(t, []string{"zone-b"}, z(1, 2, 3)...) },
		"the ring has one zone": func() (series.Versions, error) { return versionsOf(t, nil, z(1)...) },
	} {
		if v, err := read(); err == nil {
			t.Errorf("%s: %+v, want an error", name, v)
		}
	}
}

// TestVersionsOfOneProcess: the ring and the ingester need not have the same name for it.
func TestVersionsOfOneProcess(t *testing.T) {
	in := OneIngester(&peer{version: series.IngesterVersion{Instance: "ingester-1", Epoch: 3}})
	t.Cleanup(func() { _ = in.Close() })
	v, err := Versions(t.Context(), in, fixedStore{}, "t", 0, 1)
	if err != nil || !v.Confirms(v.Ingesters) {
		t.Errorf("versions of one process: %+v, %v", v, err)
	}
	if _, err := Versions(t.Context(), in, fixedStore{err: errors.New("down")}, "t", 0, 1); err == nil {
		t.Error("no error of the store")
	}
}
