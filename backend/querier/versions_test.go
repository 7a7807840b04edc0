package querier

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/peers"
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

// TestVersions: an answer is current if two complete zones have unchanged ingesters that
// were asked then. Each acknowledged sample is in two of three zones.
func TestVersions(t *testing.T) {
	down := &peer{err: errors.New("down")}
	then, err := versionsOf(t, nil, zones(1, 2, 3)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(then.Domains) != 2 || then.Enough != 2 {
		t.Fatalf("asked %d zones, needs %d; want 2 and 2", len(then.Domains), then.Enough)
	}
	asked := map[string]bool{}
	lowest := int64(1 << 40)
	for _, v := range then.Ingesters() {
		asked[v.Instance] = true
		lowest = min(lowest, v.Bound)
	}
	if then.Bound() != lowest {
		t.Errorf("bound = %d, want the smallest, %d", then.Bound(), lowest)
	}
	all := append(then.Ingesters(), series.IngesterVersion{Instance: missing(asked), Epoch: 7, Changes: changesOf(missing(asked))})
	z := func(changes ...uint64) []*peer { return zones(changes...) }
	for _, tt := range []struct {
		name string
		now  []*peer
		lost []string
		then []series.IngesterVersion
		want bool
	}{
		{"nothing changed", z(1, 2, 3), nil, all, true},
		{"nothing was known", z(1, 2, 3), nil, nil, false},
		{"one zone is down", []*peer{down, z(1, 2)[1], z(1, 2, 3)[2]}, nil, all, true},
		{"two zones changed", z(2, 3, 3), nil, all, false},
		{"an ingester joined two zones", append(z(1, 2, 3), z(0, 0)...), nil, all, false},
		{"a zone of the entry was lost, one changed", z(2, 2, 3), []string{"zone-b"}, all, false},
		{"one zone was lost", z(1, 2, 3), []string{"zone-b"}, all, true},
	} {
		now, err := versionsOf(t, tt.lost, tt.now...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := now.Confirms(tt.then); got != tt.want {
			t.Errorf("%s: confirmed = %t, want %t: %+v", tt.name, got, tt.want, now)
		}
	}
	// Whichever two zones an acknowledged sample is in, it is noticed.
	for i := range 3 {
		changed := z(1, 2, 3)
		changed[i].version.Changes++
		changed[(i+1)%3].version.Changes++
		if now, err := versionsOf(t, nil, changed...); err != nil || now.Confirms(all) {
			t.Errorf("a sample in zones %d and %d was not noticed (%v)", i, (i+1)%3, err)
		}
	}
	restarted := z(1, 2, 3)
	restarted[0].version.Epoch, restarted[1].version.Epoch, restarted[2].version.Epoch = 8, 8, 8
	if now, err := versionsOf(t, nil, restarted...); err != nil || now.Confirms(all) {
		t.Errorf("restarted ingesters were taken for the same (%v)", err)
	}
	if _, err := versionsOf(t, nil, down, down, z(1, 2, 3)[2]); !errors.Is(err, peers.ErrTooFew) {
		t.Errorf("two zones down: %v, want ErrTooFew", err)
	}
}

func missing(asked map[string]bool) string {
	for _, id := range []string{"a", "b", "c"} {
		if !asked[id] {
			return id
		}
	}
	return ""
}

func changesOf(id string) uint64 { return uint64(id[0]-'a') + 1 }

// TestVersionsOfOneProcess: the ring and the ingester need not have the same name for it.
func TestVersionsOfOneProcess(t *testing.T) {
	in := OneIngester(&peer{version: series.IngesterVersion{Instance: "ingester-1", Epoch: 3}})
	t.Cleanup(func() { _ = in.Close() })
	v, err := Versions(t.Context(), in, fixedStore{}, "t", 0, 1)
	if err != nil || !v.Confirms(v.Ingesters()) {
		t.Errorf("versions of one process: %+v, %v", v, err)
	}
	if _, err := Versions(t.Context(), in, fixedStore{err: errors.New("down")}, "t", 0, 1); err == nil {
		t.Error("no error of the store")
	}
}
