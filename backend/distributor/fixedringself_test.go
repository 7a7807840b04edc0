package distributor

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/palliumhq/pallium/backend/ring"
)

func TestFixedRingMembers(t *testing.T) {
	tests := []struct {
		name string
		ids  []string
		want []string
	}{
		{"none", nil, nil},
		{"one", []string{"a"}, []string{"a"}},
		{"by ID", []string{"b", "c", "a"}, []string{"a", "b", "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := newFixedRing(tt.ids...).Ring(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, in := range r.Instances() {
				got = append(got, in.ID)
				if in.State != ring.Active || len(in.Tokens) != ring.TokensPerInstance || !slices.IsSorted(in.Tokens) {
					t.Errorf("instance %s is %s with %d tokens", in.ID, in.State, len(in.Tokens))
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("members %v, want %v", got, tt.want)
			}
			found, err := r.Replicas(12345, 1, nil)
			if len(tt.ids) == 0 {
				if !errors.Is(err, ring.ErrTooFew) {
					t.Errorf("Replicas of an empty ring = %v, want ErrTooFew", err)
				}
			} else if err != nil || len(found) != 1 {
				t.Errorf("replicas %v, %v", found, err)
			}
		})
	}
}

// TestFixedRingSamePlacement checks that two rings of the same IDs place series on the same
// instances.
func TestFixedRingSamePlacement(t *testing.T) {
	one, _ := newFixedRing("a", "b").Ring(context.Background())
	two, _ := newFixedRing("b", "a").Ring(context.Background())
	for token := uint32(0); token < 1<<31; token += 1 << 22 {
		x, err1 := one.Replicas(token, 1, nil)
		y, err2 := two.Replicas(token, 1, nil)
		if err1 != nil || err2 != nil || x[0].ID != y[0].ID {
			t.Fatalf("token %d is on %v and %v", token, x, y)
		}
	}
}
