// Package peers puts one question to several processes of the cluster, side by
// side. All is for what every one of them must do, Each for what is used as far as
// it comes, with the errors of the others, and Enough for answers that are complete
// although some failure domains do not answer.
package peers

import (
	"context"
	"errors"
	"fmt"
)

// atOnce is how many processes All and Each ask at the same time.
const atOnce = 16

// Peer is a process of the cluster, and what it would fail together with: its zone,
// or itself. Client is what it is called by.
type Peer[C any] struct {
	ID, Domain string
	Unhealthy  bool // it sends no heartbeats
	Client     C
}

// Reply is what one peer answered.
type Reply[T any] struct {
	ID, Domain string // of the peer
	Value      T
	Err        error // names the peer
}

// Each calls all peers and returns when all have answered or failed, in the order
// of the list. It has no time limit but that of ctx.
func Each[C, T any](ctx context.Context, list []Peer[C], call func(context.Context, C) (T, error)) []Reply[T] {
	out := make([]Reply[T], len(list))
	slots, done := make(chan struct{}, atOnce), make(chan struct{}, len(list))
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

// All calls all peers, which must all succeed: the error joins those of all that
// did not.
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
