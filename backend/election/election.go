// Package election decides which of several senders of the same samples is
// heard. A cluster is a group of replicas, usually two Prometheus servers with
// the same configuration; one replica of it is elected, and stays so until
// nothing was received from it for the failover time. Store is the port to where
// the elections of all distributors meet; Decide is the rule that every Store,
// and a distributor that has lost its Store, keeps to.
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

// Sighting says that a sample of a replica was received, and how long ago.
type Sighting struct {
	Replica string
	Age     time.Duration
}

// Rules of an election.
type Rules struct {
	Failover time.Duration // how long the elected replica may be silent
	Idle     time.Duration // how long an election is remembered without samples
}

// Store keeps the elections of clusters. The times in it are its own, so that
// clocks that differ do no harm.
type Store interface {
	// Claim tells what was seen of a cluster lately, best liked first, and returns
	// who is elected and when a sample of it was last received, as Decide has it.
	Claim(ctx context.Context, c Cluster, seen []Sighting, r Rules) (Sighting, error)
}

// Decide is what an election comes to. now is the election as it stands, nil if
// there is none. A replica that was elected stays so while anybody has seen it
// within the failover time; after that, and at first, it is the first of seen
// that is not silent itself. Without such a one nothing changes. Without an
// election and with nothing seen the answer is the zero Sighting.
func Decide(now *Sighting, seen []Sighting, failover time.Duration) Sighting {
	var out Sighting
	if now != nil {
		out = *now
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
	if now == nil && len(seen) > 0 {
		return seen[0]
	}
	return out
}
