package ring

import (
	"errors"
	"fmt"
	"testing"
)

func members(n int, zones ...string) []Instance {
	var out []Instance
	for i := range n {
		in := Instance{ID: fmt.Sprintf("ingester-%d", i), State: Active}
		in.Tokens = Tokens(in.ID)
		if len(zones) > 0 {
			in.Zone = zones[i%len(zones)]
		}
		out = append(out, in)
	}
	return out
}

func ids(in []*Instance) string {
	s := ""
	for _, i := range in {
		s += i.ID + " "
	}
	return s
}

func TestReplicasAreDistinctAndInDistinctZones(t *testing.T) {
	r := New(members(9, "a", "b", "c"))
	for token := uint32(0); token < 1<<31; token += 1 << 20 {
		got, err := r.Replicas(token, 3, nil)
		if err != nil {
			t.Fatal(err)
		}
		zones := map[string]bool{}
		for _, in := range got {
			zones[in.Zone] = true
		}
		if len(zones) != 3 {
			t.Fatalf("token %d: %s", token, ids(got))
		}
	}
}

func TestOnlyActiveInstancesTakeSeries(t *testing.T) {
	m := members(4)
	m[1].State, m[2].State = Leaving, Joining
	r := New(m)
	got, err := r.Replicas(12345, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range got {
		if in.State != Active {
			t.Errorf("%s is %s", in.ID, in.State)
		}
	}
	if _, err := r.Replicas(12345, 3, nil); !errors.Is(err, ErrTooFew) {
		t.Errorf("err = %v", err)
	}
	if _, err := New(nil).Replicas(1, 1, nil); !errors.Is(err, ErrTooFew) {
		t.Errorf("empty ring: err = %v", err)
	}
}

func TestJoiningMovesOnlyTheNewShare(t *testing.T) {
	before, after := New(members(10)), New(members(11))
	moved, total := 0, 0
	for token := uint64(0); token < 1<<32; token += 1 << 18 {
		a, _ := before.Replicas(uint32(token), 1, nil)
		b, _ := after.Replicas(uint32(token), 1, nil)
		total++
		if a[0].ID != b[0].ID {
			moved++
			if b[0].ID != "ingester-10" {
				t.Fatalf("token %d moved from %s to %s", token, a[0].ID, b[0].ID)
			}
		}
	}
	if share := float64(moved) / float64(total); share < 0.05 || share > 0.14 {
		t.Errorf("%.3f of the ring moved, a fair share is 0.091", share)
	}
}

func BenchmarkReplicas(b *testing.B) {
	r := New(members(100, "a", "b", "c"))
	var dst []*Instance
	b.ReportAllocs()
	for i := range b.N {
		dst, _ = r.Replicas(uint32(i)*2654435761, 3, dst)
	}
}
