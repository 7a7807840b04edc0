// Package election decides which of several senders of the same samples is used. A
// cluster is a group of replicas, usually two Prometheus servers with the same
// configuration. One of them is elected, and another is elected once nothing was
// received from it for the failover time. All distributors share their elections
// through a Store. Every Store decides by the rule of Decide.
package election

import (
	"context"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
)

// Cluster names a group of replicas.
type Cluster struct {
	Tenant tenant.ID
	Name   string // the value of the tenant's cluster label
}

// Sighting records that a sample of a replica was received, and how long ago.
type Sighting struct {
	Replica string
	Age     time.Duration
}

// Rules are the parameters of an election.
type Rules struct {
	Failover time.Duration // how long the elected replica may send nothing before another is elected
	Idle     time.Duration // how long an election is stored after the last sample
}

// Store stores the elections of clusters. It uses its own clock, and callers pass
// ages, so that differing clocks of distributors do not matter.
type Store interface {
	// Claim reports recent sightings of a cluster's replicas, in order of preference,
	// and returns the elected replica and the age of its last sample, as decided by
	// Decide.
	Claim(ctx context.Context, c Cluster, seen []Sighting, r Rules) (Sighting, error)
}

// Decide returns the outcome of an election; current is the election so far, or nil.
// The elected replica stays elected while it was seen within the failover time.
// Otherwise the first replica of `seen` that was seen within the failover time is
// elected. If there is none, the outcome is current, or without an election so far
// the first of `seen`, or the zero Sighting if `seen` is empty.
func Decide(current *Sighting, seen []Sighting, failover time.Duration) Sighting {
	var out Sighting
	if current != nil {
		out = *current
		for _, s := range seen {
			if s.Replica == out.Replica {
				out.Age = min(out.Age, s.Age)
			}
		}
		if out.Age <= failover {
			return out
		}
	}
	for _, s := range seen {
		if s.Age <= failover {
			return s
		}
	}
	if current == nil && len(seen) > 0 {
		return seen[0]
	}
	return out
}
