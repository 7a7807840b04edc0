package ring

import (
	"errors"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/authn/tenant"
)

// join adds an instance like a process that joins: its tokens are placed among the tokens of
// its zone.
func join(members []Instance, id, zone string) []Instance {
	var same []Instance
	for _, in := range members {
		if in.Zone == zone {
			same = append(same, in)
		}
	}
	return append(slices.Clone(members), Instance{ID: id, Zone: zone, State: Active, Tokens: PlaceTokens(zone, same)})
}

func members(n int, zones ...string) []Instance {
	var out []Instance
	for i := range n {
		zone := ""
		if len(zones) > 0 {
			zone = zones[i%len(zones)]
		}
		out = join(out, fmt.Sprintf("ingester-%d", i), zone)
	}
	return out
}

func ids(in []*Instance) []string {
	var out []string
	for _, i := range in {
		out = append(out, i.ID)
	}
	return out
}

func TestTokens(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 200} {
		seen := map[uint32]string{}
		for _, in := range members(n) {
			if len(in.Tokens) != TokensPerInstance || !slices.IsSorted(in.Tokens) {
				t.Fatalf("%s of %d instances has %d tokens", in.ID, n, len(in.Tokens))
			}
			for _, token := range in.Tokens {
				if other, ok := seen[token]; ok {
					t.Fatalf("%s and %s both have token %d", in.ID, other, token)
				}
				seen[token] = in.ID
			}
		}
	}
}

// TestSharesOfFewTokens checks the shares in rings with one or two tokens, also with fewer
// active instances than replicas.
func TestSharesOfFewTokens(t *testing.T) {
	for _, c := range []struct {
		name      string
		instances []Instance
		replicas  int
		want      []float64
	}{
		{"one token", []Instance{{ID: "a", State: Active, Tokens: []uint32{7}}}, 1, []float64{1}},
		{"one token, three replicas", []Instance{{ID: "a", State: Active, Tokens: []uint32{7}}}, 3, []float64{1}},
		{"one token of an instance that leaves", []Instance{{ID: "a", State: Leaving, Tokens: []uint32{7}}}, 1, []float64{0}},
		{"two halves", []Instance{{ID: "a", State: Active, Tokens: []uint32{0}}, {ID: "b", State: Active, Tokens: []uint32{1 << 31}}}, 1, []float64{0.5, 0.5}},
		{"one of two leaves", []Instance{{ID: "a", State: Active, Tokens: []uint32{0}}, {ID: "b", State: Leaving, Tokens: []uint32{1 << 31}}}, 2, []float64{1, 0}},
	} {
		if got := New(c.instances).Shares(c.replicas); !slices.Equal(got, c.want) {
			t.Errorf("%s: shares %v, want %v", c.name, got, c.want)
		}
	}
}

// spread returns the largest relative difference of an instance's share from the mean of
// its zone.
func spread(t *testing.T, m []Instance, replicas int) float64 {
	t.Helper()
	r := New(m)
	shares := r.Shares(replicas)
	sum, n := map[string]float64{}, map[string]float64{}
	total := 0.0
	for i, in := range r.Instances() {
		sum[in.Zone] += shares[i]
		n[in.Zone]++
		total += shares[i]
	}
	if math.Abs(total-float64(replicas)) > 1e-6 {
		t.Fatalf("sum of shares = %f, want %d", total, replicas)
	}
	worst := 0.0
	for i, in := range r.Instances() {
		worst = max(worst, math.Abs(shares[i]/(sum[in.Zone]/n[in.Zone])-1))
	}
	return worst
}

// TestBalance checks that with as many zones as replicas every ingester's share is within
// 10% of the fair share, for several numbers of ingesters. With more zones or without zones, the
// ingester of a replica depends on the series' other replicas, and shares differ by up to 25%
// or 34%.
func TestBalance(t *testing.T) {
	for _, tt := range []struct {
		zones []string
		most  float64
	}{{[]string{"a", "b", "c"}, 0.10}, {[]string{"a", "b", "c", "d", "e"}, 0.25}, {[]string{""}, 0.34}} {
		for _, n := range []int{3, 4, 6, 9, 10, 15, 30, 31, 100, 300} {
			got := spread(t, members(n, tt.zones...), min(3, n))
			t.Logf("%4d ingesters in zones %q: within %.2f%% of fair", n, tt.zones, got*100)
			if got > tt.most {
				t.Errorf("%d ingesters in zones %q: a share differs by %.1f%% from the fair share", n, tt.zones, got*100)
			}
		}
	}
	got := spread(t, members(1000, "a", "b", "c"), 3)
	t.Logf("1000 ingesters, 3 zones: within %.2f%% of fair", got*100)
	if got > 0.10 {
		t.Errorf("1000 ingesters: a share differs by %.1f%% from the fair share", got*100)
	}
}

// TestBalanceAfterChanges checks the balance while random instances are replaced, one at a time. A
// replacement may be replaced, too.
func TestBalanceAfterChanges(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	zones := []string{"a", "b", "c"}
	m := members(60, zones...)
	worst := 0.0
	for i := range 60 {
		gone := rnd.Intn(len(m))
		zone := m[gone].Zone
		m = slices.Delete(m, gone, gone+1)
		m = join(m, fmt.Sprintf("new-%d", i), zone)
		worst = max(worst, spread(t, m, 3))
	}
	t.Logf("60 random replacements in a ring of 60: shares differ by at most %.2f%%", worst*100)
	if worst > 0.10 {
		t.Errorf("a share differs by %.1f%% from the fair share", worst*100)
	}
}

// TestReplicas checks for random rings that a replica set has the requested number of
// distinct Active instances in distinct zones.
func TestReplicas(t *testing.T) {
	for seed := range int64(40) {
		rnd := rand.New(rand.NewSource(seed))
		var zones []string
		for i := range 3 + rnd.Intn(3) {
			zones = append(zones, fmt.Sprint("zone-", i))
		}
		m := members(len(zones)*(2+rnd.Intn(6)), zones...)
		for range rnd.Intn(len(m) / 3) {
			m[rnd.Intn(len(m))].State = []State{Joining, Leaving}[rnd.Intn(2)]
		}
		usable := map[string]bool{}
		for _, in := range m {
			if in.State == Active {
				usable[in.Zone] = true
			}
		}
		r := New(m)
		var got []*Instance
		for range 2000 {
			var err error
			got, err = r.Replicas(rnd.Uint32(), 3, got)
			if len(usable) < 3 {
				if !errors.Is(err, ErrTooFew) {
					t.Fatalf("seed %d: %d zones, but replicas %v", seed, len(usable), ids(got))
				}
				continue
			}
			seen := map[string]bool{}
			for _, in := range got {
				seen[in.Zone] = true
				if in.State != Active {
					t.Fatalf("seed %d: %s is %s", seed, in.ID, in.State)
				}
			}
			if err != nil || len(seen) != 3 || len(got) != 3 {
				t.Fatalf("seed %d: %v, %v", seed, ids(got), err)
			}
		}
	}
	if _, err := New(nil).Replicas(1, 1, nil); !errors.Is(err, ErrTooFew) {
		t.Errorf("Replicas of an empty ring = %v, want ErrTooFew", err)
	}
}

// TestMinimalMovement checks that an instance that joins gets its fair share, and that no
// replicas move between the others.
func TestMinimalMovement(t *testing.T) {
	for _, zones := range [][]string{{"a", "b", "c"}, {""}} {
		for _, n := range []int{6, 30, 90} {
			before := members(n, zones...)
			after := join(before, "new", zones[0])
			moved := movement(t, New(before), New(after), "new")
			fair := 3.0 / float64(n+1)
			if len(zones) == 3 {
				fair = 1 / (float64(n)/3 + 1) // each series has one replica in its zone
			}
			t.Logf("%d ingesters in zones %q: %.4f of the series have a replica on the new one, a fair share is %.4f", n, zones, moved, fair)
			if moved > fair*1.1 || moved < fair*0.9 {
				t.Errorf("%d ingesters in zones %q: %.4f of the series have a replica on the new one, want %.4f within 10%%", n, zones, moved, fair)
			}
		}
	}
}

// movement returns the fraction of series that have a replica on instance id in after. It
// fails the test if a replica moved between two other instances.
func movement(t *testing.T, before, after *Ring, id string) float64 {
	t.Helper()
	rnd := rand.New(rand.NewSource(7))
	const tokens = 20_000
	moved := 0
	for range tokens {
		token := rnd.Uint32()
		a, err := before.Replicas(token, 3, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := after.Replicas(token, 3, nil)
		if err != nil {
			t.Fatal(err)
		}
		had := ids(a)
		lost := 0
		for _, in := range b {
			switch {
			case in.ID == id:
				moved++
				lost++
			case !slices.Contains(had, in.ID):
				t.Fatalf("token %d moved from %v to %v", token, had, ids(b))
			}
		}
		if lost > 1 {
			t.Fatalf("token %d: %v", token, ids(b))
		}
	}
	return float64(moved) / tokens
}

// TestLeaving checks that a series of a leaving instance gets one other replica, and that its
// other two replicas stay.
func TestLeaving(t *testing.T) {
	m := members(12, "a", "b", "c")
	before := New(m)
	left := slices.Clone(m)
	left[4].State = Leaving
	after := New(left)
	for token := uint32(0); token < 1<<31; token += 1 << 18 {
		a, _ := before.Replicas(token, 3, nil)
		had := slices.Clone(ids(a))
		b, err := after.Replicas(token, 3, nil)
		if err != nil {
			t.Fatal(err)
		}
		kept := 0
		for _, in := range b {
			if slices.Contains(had, in.ID) {
				kept++
			}
		}
		want := 3
		if slices.Contains(had, m[4].ID) {
			want = 2
		}
		if kept != want {
			t.Fatalf("token %d: %v before, %v after", token, had, ids(b))
		}
	}
}

// TestShards checks the shards of 10,000 tenants on 1,000 ingesters: they have the requested
// size and include all zones; no ingester is in more than 1.6 times the mean number of shards;
// no two neighbouring tenants (2i and 2i+1) have the same shard; and a shard changes by at most
// one member when an ingester joins.
func TestShards(t *testing.T) {
	const size, tenants = 9, 10_000
	zones := []string{"a", "b", "c"}
	m := members(1000, zones...)
	r := New(m)
	use := map[string]int{}
	shards := make([][]string, tenants)
	for i := range shards {
		shards[i] = shardOf(r, i, size)
		if len(shards[i]) != size {
			t.Fatalf("shard of tenant %d has ingesters %q, want %d in three zones", i, shards[i], size)
		}
		for _, id := range shards[i] {
			use[id]++
		}
	}
	mean := float64(tenants*size) / 1000
	for id, n := range use {
		if float64(n) > 1.6*mean {
			t.Errorf("%s is in the shards of %d tenants, the mean is %.0f", id, n, mean)
		}
	}
	if len(use) < 1000 {
		t.Errorf("%d of 1000 ingesters are in shards, want all", len(use))
	}
	changed, more := 0, New(join(m, "new", "b"))
	for i := range 2000 {
		now := shardOf(more, i, size)
		diff := 0
		for _, id := range now {
			if !slices.Contains(shards[i], id) {
				diff++
			}
		}
		if diff > 1 {
			t.Fatalf("tenant %d: %d members changed when one joined", i, diff)
		}
		changed += diff
	}
	t.Logf("%d of 2000 shards changed by a join, a fair share is %.0f", changed, 2000*9.0/1001)
	same := 0
	for i := range 5000 {
		if slices.Equal(shards[2*i], shards[2*i+1]) {
			same++
		}
	}
	if same > 0 {
		t.Errorf("%d of 5000 pairs of neighbouring tenants (2i and 2i+1) have the same shard, want none", same)
	}
	if got := r.Shard("t", 0); got != r {
		t.Error("Shard with size 0 is not the whole ring")
	}
}

// shardOf returns the ingesters of a tenant's shard, or nil if they are not in three zones.
func shardOf(r *Ring, i, size int) []string {
	s := r.Shard(tenant.ID(fmt.Sprint("tenant-", i)), size)
	seen := map[string]bool{}
	zones := map[string]int{}
	for _, p := range s.tokens {
		in := &s.instances[p.instance]
		if !seen[in.ID] {
			seen[in.ID] = true
			zones[in.Zone]++
		}
	}
	var out []string
	for id := range seen {
		out = append(out, id)
	}
	slices.Sort(out)
	if len(zones) != 3 {
		return nil
	}
	return out
}

func BenchmarkReplicas(b *testing.B) {
	for _, n := range []int{3, 100, 1000} {
		r := New(members(n, "a", "b", "c"))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var dst []*Instance
			b.ReportAllocs()
			for i := range b.N {
				dst, _ = r.Replicas(uint32(i)*2654435761, 3, dst)
			}
		})
	}
}

func BenchmarkShard(b *testing.B) {
	r := New(members(300, "a", "b", "c"))
	b.Run("9", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			r.Shard(tenant.ID(fmt.Sprint(i)), 9)
		}
	})
}

// BenchmarkNew measures the work of a process when the ring changes. A cluster with a billion
// series has about 1,500 ingesters.
func BenchmarkNew(b *testing.B) {
	for _, n := range []int{3, 300, 1500} {
		m := members(n, "a", "b", "c")
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				New(m)
			}
		})
	}
}

// BenchmarkPlaceTokens measures the work of an ingester that joins.
func BenchmarkPlaceTokens(b *testing.B) {
	m := members(500)
	b.Run("500", func(b *testing.B) {
		for b.Loop() {
			PlaceTokens("", m)
		}
	})
}
