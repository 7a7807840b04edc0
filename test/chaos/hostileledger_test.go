package chaos

import (
	"github.com/prometheus/prometheus/model/labels"
)

// attackLabel is the label of each hostile series with the name of its attack. A
// tenant's data is read back attack by attack.
const attackLabel = "attack"

// hostileLedger records what a hostile tenant sent: the marks of all values by attack,
// series and time. It is not safe for concurrent use.
type hostileLedger struct {
	tenant  string
	attacks map[string]map[string]map[int64][]mark // by attack, then by labels
	acked   map[string]int                         // number of acknowledged samples by attack, including deleted ones
}

func newHostileLedger(tenant string) *hostileLedger {
	return &hostileLedger{tenant: tenant, attacks: map[string]map[string]map[int64][]mark{}, acked: map[string]int{}}
}

// note records a request. Samples that were not acknowledged may be stored or not.
func (l *hostileLedger) note(all []hostileSeries, acked bool) {
	for i := range all {
		attack := all[i].labels.Get(attackLabel)
		if l.attacks[attack] == nil {
			l.attacks[attack] = map[string]map[int64][]mark{}
		}
		key := all[i].labels.String()
		times := l.attacks[attack][key]
		if times == nil {
			times = map[int64][]mark{}
			l.attacks[attack][key] = times
		}
		for j := range all[i].points {
			m := markOf(&all[i].points[j])
			m.acked = acked
			times[all[i].points[j].t] = enter(times[all[i].points[j].t], m)
		}
		if acked {
			l.acked[attack] += len(all[i].points)
		}
	}
}

func enter(marks []mark, m mark) []mark {
	for i := range marks {
		if marks[i].print == m.print && marks[i].rank == m.rank {
			marks[i].acked = marks[i].acked || m.acked
			return marks
		}
	}
	return append(marks, m)
}

// remove applies a deletion of series. A deletion without a response may have taken
// effect or not: then no sample that it matches is required any more.
func (l *hostileLedger) remove(attack string, mint, maxt int64, done bool) {
	for name, all := range l.attacks {
		if attack != "" && attack != name {
			continue
		}
		for key, times := range all {
			for t, marks := range times {
				switch {
				case t < mint || t > maxt:
				case done:
					delete(times, t)
				default:
					for i := range marks {
						marks[i].acked = false
					}
				}
			}
			if len(times) == 0 {
				delete(all, key)
			}
		}
	}
}

// compare compares the samples read for one attack with those that were sent.
func (l *hostileLedger) compare(attack string, got []readSeries) faults {
	var wrong faults
	read := map[string]map[int64]bool{}
	for _, s := range got {
		key := s.labels.String()
		times, known := l.attacks[attack][key]
		if !known {
			wrong.add("series %s was never sent", short(key))
			continue
		}
		if read[key] != nil {
			wrong.add("series %s was read twice", short(key))
		}
		seen := map[int64]bool{}
		read[key] = seen
		for i := range s.points {
			p := &s.points[i]
			marks := times[p.t]
			switch {
			case len(marks) == 0:
				wrong.add("%s at %d was never sent, or was rejected or deleted, but was read", short(key), p.t)
			case seen[p.t]:
				wrong.add("%s at %d was read twice", short(key), p.t)
			case !allowed(marks, markOf(p)):
				wrong.add("%s at %d has a value that was not sent or lost a conflict: %v %v %v", short(key), p.t, p.v, p.h, p.fh)
			}
			seen[p.t] = true
		}
	}
	for key, times := range l.attacks[attack] {
		for t, marks := range times {
			if required(marks) && !read[key][t] {
				wrong.add("%s at %d was acknowledged but is missing", short(key), t)
			}
		}
	}
	return wrong
}

func required(marks []mark) bool {
	for _, m := range marks {
		if m.acked {
			return true
		}
	}
	return false
}

// allowed reports whether the mark `got` is of one of the values that were sent, and no acknowledged
// value takes precedence over it.
func allowed(marks []mark, got mark) bool {
	found := false
	for _, m := range marks {
		if m.acked && m.beats(got) {
			return false
		}
		found = found || m.print == got.print && m.rank == got.rank
	}
	return found
}

func short(key string) string {
	if len(key) > 300 {
		return key[:300] + "..."
	}
	return key
}

// hostileLabels returns the labels of a hostile series; more contains additional names
// and values.
func hostileLabels(attack, id string, more ...string) labels.Labels {
	b := labels.NewBuilder(labels.FromStrings("__name__", "hostile_"+attack, attackLabel, attack, "id", id))
	for i := 0; i+1 < len(more); i += 2 {
		b.Set(more[i], more[i+1])
	}
	return b.Labels()
}
