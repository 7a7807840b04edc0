package querier

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// zones returns an ingester for each argument, which is its number of changes.
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

// TestVersions checks that an answer is current if enough of the zones from which it was read have
// not changed.
func TestVersions(t *testing.T) {
	down := &peer{err: errors.New("down")}
	z := func(changes ...uint64) []*peer { return zones(changes...) }
	first, err := versionsOf(t, nil, z(1, 2, 3)...)
	if err != nil {
		t.Fatal(err)
	}
	if bound, _ := first.Bounds(); len(first.Ingesters) != 3 || bound != 1000 {
		t.Fatalf("asked %d ingesters, bound %d; want 3 and 1000", len(first.Ingesters), bound)
	}
	restarted := z(1, 2, 3)
	restarted[0].version.Epoch = 8
	for _, tt := range []struct {
		name string
		now  []*peer
		read string // ingesters from which the answer was read
		want bool
	}{
		{"nothing changed", z(1, 2, 3), "abc", true},
		{"nothing changed, two zones read", z(1, 2, 3), "bc", true},
		{"one zone read", z(1, 2, 3), "c", false},
		{"nothing read", z(1, 2, 3), "", false},
		{"one zone changed that was not read", z(2, 2, 3), "bc", true},
		{"one zone changed that was read", z(1, 2, 4), "bc", false},
		{"one of three zones changed", z(1, 2, 4), "abc", true},
		{"two zones changed", z(1, 3, 4), "abc", false},
		{"an ingester joined a zone that was not read", append(z(1, 2, 3), z(0)...), "bc", true},
		{"an ingester joined a zone that was read", append(z(1, 2, 3), z(0)...), "ab", false},
		{"an ingester restarted that was read", restarted, "ab", false},
		{"an ingester restarted that was not read", restarted, "bc", true},
		// Zone a may already have a sample that c gets, and so acknowledges, only after b and c were
		// read. The answer lacks it, although a and b have the same versions as before.
		{"a zone is down that was read", []*peer{z(1)[0], z(1, 2)[1], down}, "bc", false},
		{"a zone is down that was not read", []*peer{down, z(1, 2)[1], z(1, 2, 3)[2]}, "bc", true},
	} {
		now, err := versionsOf(t, nil, tt.now...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		then := first.Of(strings.Split(tt.read, ""))
		if got := now.Confirms(then, false); got != tt.want {
			t.Errorf("%s: confirmed = %t, want %t: %+v", tt.name, got, tt.want, now)
		}
	}
	for name, read := range map[string]func() (series.Versions, error){
		"two zones are down":    func() (series.Versions, error) { return versionsOf(t, nil, down, down, z(1, 2, 3)[2]) },
		"a zone counts as lost": func() (series.Versions, error) { return versionsOf(t, []string{"zone-b"}, z(1, 2, 3)...) },
		"the ring has one zone": func() (series.Versions, error) { return versionsOf(t, nil, z(1)...) },
		"half of each zone is down": func() (series.Versions, error) {
			return versionsOf(t, nil, z(1)[0], down, down, down, z(1)[0], z(1)[0])
		},
	} {
		if v, err := read(); err == nil {
			t.Errorf("%s: %+v, want an error", name, v)
		}
	}
	if got := series.Both(first.Of([]string{"a", "b"}), first.Of([]string{"b", "c"}), true); len(got) != 1 || got[0].Instance != "b" {
		t.Errorf("versions in both lists: %+v", got)
	}
}

// TestReaders checks that an evaluation records which ingesters answered all of its reads.
func TestReaders(t *testing.T) {
	e := &evaluation{}
	ctx := context.WithValue(t.Context(), evaluationKey{}, e)
	read := func(list ...*peer) {
		t.Helper()
		var members []Peer
		for i, p := range list {
			members = append(members, Peer{ID: string(rune('a' + i)), Domain: string(rune('a' + i)), Client: p})
		}
		in := NewIngesters(IngestersOptions{Tolerate: 1, HedgeAfter: time.Hour, Peers: func(context.Context) ([]Peer, error) { return members, nil }})
		defer in.Close()
		sel, _, err := in.Select(ctx, series.Request{Tenant: "t"})
		if err != nil {
			t.Fatal(err)
		}
		sel.Release()
	}
	readersOf := func() string {
		r := (&Engine{}).Readers(&query{ran: e})
		return fmt.Sprint(r.Any, r.IDs)
	}
	if got := readersOf(); got != "false []" {
		t.Errorf("before a read: %s", got)
	}
	up, down := &peer{}, &peer{err: errors.New("down")}
	read(up, up, down)
	if got := readersOf(); got != "true [a b]" {
		t.Errorf("after a read: %s", got)
	}
	read(down, up, up)
	if got := readersOf(); got != "true [b]" {
		t.Errorf("after two reads: %s", got)
	}
	read(up, down, up)
	if got := readersOf(); got != "true []" {
		t.Errorf("after three reads: %s", got)
	}
	if r := (&Engine{}).Readers(&query{}); r.Any {
		t.Errorf("of a query that did not run: %+v", r)
	}
}

// TestVersionsOfOneProcess checks that versions are confirmed even if the ingester's name differs from that
// of its peer.
func TestVersionsOfOneProcess(t *testing.T) {
	in := OneIngester(&peer{version: series.IngesterVersion{Instance: "ingester-1", Epoch: 3}})
	t.Cleanup(func() { _ = in.Close() })
	v, err := Versions(t.Context(), in, fixedStore{}, "t", 0, 1)
	if err != nil || !v.Confirms(v.Ingesters, true) {
		t.Errorf("versions of one process: %+v, %v", v, err)
	}
	if _, err := Versions(t.Context(), in, fixedStore{err: errors.New("down")}, "t", 0, 1); err == nil {
		t.Error("no error of the store")
	}
}
