// Package peers sends a request to several processes of the cluster concurrently. All
// is for requests that every process must complete, Each for requests whose results
// are useful even if some processes fail, and Enough for reads whose result is complete
// even if some failure domains are unavailable.
package peers

import (
	"context"
	"errors"
	"fmt"
)

// maxConcurrent is how many processes All and Each call concurrently.
const maxConcurrent = 16

// Peer is a process of the cluster. Domain is its failure domain: its zone, or the
// process itself. Client calls it.
type Peer[C any] struct {
	ID, Domain string
	Unhealthy  bool // its heartbeats are missing
	Client     C
}

// Reply is the response of one peer, or its error.
type Reply[T any] struct {
	ID, Domain string // of the peer
	Value      T
	Err        error // contains the ID of the peer
}

// Each calls all peers, waits until all have responded or failed, and returns the
// replies in the order of the list. The only time limit is the deadline of ctx.
func Each[C, T any](ctx context.Context, list []Peer[C], call func(context.Context, C) (T, error)) []Reply[T] {
	out := make([]Reply[T], len(list))
	slots, done := make(chan struct{}, maxConcurrent), make(chan struct{}, len(list))
	for i := range list {
		slots <- struct{}{}
		go func() {
			p := &list[i]
			v, err := call(ctx, p.Client)
			out[i] = Reply[T]{ID: p.ID, Domain: p.Domain, Value: v, Err: named(p.ID, err)}
			<-slots
			done <- struct{}{}
		}()
	}
	for range list {
		<-done
	}
	return out
}

// All calls all peers, waits for all of them, and returns their values in the order of
// the list, or the joined errors of the peers that failed.
func All[C, T any](ctx context.Context, list []Peer[C], call func(context.Context, C) (T, error)) ([]T, error) {
	var values []T
	var errs error
	for _, r := range Each(ctx, list, call) {
		values, errs = append(values, r.Value), errors.Join(errs, r.Err)
	}
	if errs != nil {
		return nil, errs
	}
	return values, nil
}

func named(id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("instance %s: %w", id, err)
}
