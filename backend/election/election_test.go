package election

import (
	"context"
	"fmt"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	const failover = 30 * time.Second
	at := func(replica string, seconds int) Sighting {
		return Sighting{replica, time.Duration(seconds) * time.Second}
	}
	held := func(replica string, seconds int) *Sighting { s := at(replica, seconds); return &s }
	for name, c := range map[string]struct {
		current *Sighting
		seen    []Sighting
		want    Sighting
	}{
		"no election, nothing seen":                {nil, nil, Sighting{}},
		"the first":                                {nil, []Sighting{at("a", 3)}, at("a", 3)},
		"the first of two":                         {nil, []Sighting{at("a", 3), at("b", 0)}, at("a", 3)},
		"the first seen within the failover time":  {nil, []Sighting{at("a", 31), at("b", 0)}, at("b", 0)},
		"none within the failover time: the first": {nil, []Sighting{at("a", 31), at("b", 32)}, at("a", 31)},
		"the elected one stays":                    {held("a", 9), []Sighting{at("b", 0)}, at("a", 9)},
		"the elected one was seen again":           {held("a", 9), []Sighting{at("a", 2), at("b", 0)}, at("a", 2)},
		"an older sighting of the elected one":     {held("a", 9), []Sighting{at("a", 12)}, at("a", 9)},
		"exactly the failover time":                {held("a", 30), []Sighting{at("b", 0)}, at("a", 30)},
		"failover":                                 {held("a", 31), []Sighting{at("b", 1)}, at("b", 1)},
		"another distributor saw the elected one":  {held("a", 31), []Sighting{at("b", 0), at("a", 30)}, at("a", 30)},
		"no replica within the failover time":      {held("a", 40), []Sighting{at("b", 31), at("a", 35)}, at("a", 35)},
		"failover time over, nothing seen":         {held("a", 40), nil, at("a", 40)},
	} {
		if got := Decide(c.current, c.seen, failover); got != c.want {
			t.Errorf("%s: Decide = %v, want %v", name, got, c.want)
		}
	}
}

func TestMemory(t *testing.T) {
	now := time.Unix(0, 0)
	m := NewMemory(func() time.Time { return now })
	rules := Rules{Failover: 30 * time.Second, Idle: time.Hour}
	claim := func(cluster, replica string) string {
		s, err := m.Claim(context.Background(), Cluster{"team", cluster}, []Sighting{{Replica: replica}}, rules)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(s.Replica, " ", s.Age)
	}
	for i, c := range []struct {
		wait          time.Duration
		replica, want string
	}{
		{0, "a", "a 0s"}, {10 * time.Second, "b", "a 10s"}, {20 * time.Second, "b", "a 30s"}, {0, "a", "a 0s"},
		{31 * time.Second, "b", "b 0s"}, {0, "a", "b 0s"},
	} {
		now = now.Add(c.wait)
		if got := claim("x", c.replica); got != c.want {
			t.Errorf("step %d: elected %s, want %s", i, got, c.want)
		}
	}
	for i := range 3 * minSweepAt {
		claim(fmt.Sprint("many-", i), "a")
	}
	now = now.Add(2 * time.Hour)
	for i := range 3 * minSweepAt {
		claim(fmt.Sprint("later-", i), "a")
	}
	if n := len(m.of); n > 5*minSweepAt {
		t.Errorf("%d elections stored, most of them idle", n)
	}
}
