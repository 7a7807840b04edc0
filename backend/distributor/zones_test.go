package distributor

import (
	"errors"
	"strings"
	"testing"

	"github.com/palliumhq/pallium/backend/ring"
)

// TestEnoughZones checks that EnoughZones returns an error exactly when the ring has no
// complete replica sets.
func TestEnoughZones(t *testing.T) {
	in := func(id, zone string, s ring.State) ring.Instance {
		return ring.Instance{ID: id, Zone: zone, State: s, Tokens: []uint32{uint32(len(id)) + uint32(id[0])<<8}}
	}
	const active, joining, leaving = ring.Active, ring.Joining, ring.Leaving
	for name, c := range map[string]struct {
		ring        []ring.Instance
		replication int
		says        string // empty: enough
	}{
		"no ingester":                 {nil, 3, "0 ingesters are ACTIVE"},
		"one process":                 {[]ring.Instance{in("a", "", active)}, 1, ""},
		"two zones":                   {[]ring.Instance{in("a", "x", active), in("b", "y", active), in("c", "y", active), in("d", "x", active)}, 3, "2 zones have ACTIVE"},
		"three zones":                 {[]ring.Instance{in("a", "x", active), in("b", "y", active), in("c", "z", active)}, 3, ""},
		"the third joins":             {[]ring.Instance{in("a", "x", active), in("b", "y", active), in("c", "z", joining)}, 3, "2 zones have ACTIVE"},
		"the third leaves":            {[]ring.Instance{in("a", "x", active), in("b", "y", active), in("c", "z", leaving)}, 3, "2 zones have ACTIVE"},
		"without zones":               {[]ring.Instance{in("a", "", active), in("b", "", active), in("c", "", active)}, 3, ""},
		"two without zones":           {[]ring.Instance{in("a", "", active), in("b", "", active)}, 3, "2 ingesters are ACTIVE; 3 are needed"},
		"replication above zones":     {[]ring.Instance{in("a", "x", active), in("b", "y", active), in("c", "z", active)}, 5, "5 are needed"},
		"one zone and two without it": {[]ring.Instance{in("a", "x", active), in("b", "", active), in("c", "", active)}, 3, ""},
	} {
		r := ring.New(c.ring)
		err := EnoughZones(r, c.replication)
		if (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, ErrZones) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: EnoughZones = %v, want %q", name, err, c.says)
		}
		if _, ringErr := r.Replicas(7, c.replication, nil); (ringErr == nil) != (err == nil) {
			t.Errorf("%s: EnoughZones = %v, but Replicas = %v", name, err, ringErr)
		}
	}
}
