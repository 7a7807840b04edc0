package compactor

import (
	"context"
	"errors"
	"sync"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/rows"
)

var errInjected = errors.New("injected fault")

// fault is what happens at one call of a port.
type fault int

const (
	none    fault = iota
	refused       // the call does nothing and fails
	lost          // the call does its work and its answer is lost
	partial       // a call over many rows does half of them; another one nothing
	hang          // the call does nothing until its context ends
	killed        // like refused, and so is every call after it
	killedAfter
)

var faults = map[fault]string{refused: "refused", lost: "answer lost", partial: "half done", hang: "hangs", killed: "killed before", killedAfter: "killed after"}

// injector counts the calls of both ports and has a fault at one of them.
type injector struct {
	mu    sync.Mutex
	calls int
	at    int // the call that fails, from 1; 0 = none
	kind  fault
	names []string
	dead  bool

	hook   func(name string) // before each call
	hangAt string            // every call of this name hangs
}

// next decides about the call that begins now.
func (i *injector) next(name string) fault {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dead {
		return refused
	}
	i.calls++
	i.names = append(i.names, name)
	if i.hook != nil {
		i.hook(name)
	}
	if i.hangAt == name {
		return hang
	}
	if i.calls != i.at {
		return none
	}
	switch i.kind {
	case killed:
		i.dead = true
		return refused
	case killedAfter:
		i.dead = true
		return lost
	}
	return i.kind
}

// heal ends all faults.
func (i *injector) heal() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dead, i.at, i.hook, i.hangAt = false, 0, nil, ""
}

// do runs a call under its fault.
func (i *injector) do(ctx context.Context, name string, call func() error) error {
	switch i.next(name) {
	case none:
		return call()
	case lost:
		return errors.Join(call(), errInjected)
	case hang:
		<-ctx.Done()
		return ctx.Err()
	}
	return errInjected
}

type faultyRows struct {
	rows.Store
	i *injector
}

func (f faultyRows) ReadRows(ctx context.Context, r []rows.Range, fl rows.Filter, visit func(rows.Row) bool) error {
	return f.i.do(ctx, "ReadRows", func() error { return f.Store.ReadRows(ctx, r, fl, visit) })
}

func (f faultyRows) Mutate(ctx context.Context, m rows.RowMutation) error {
	return f.i.do(ctx, "Mutate", func() error { return f.Store.Mutate(ctx, m) })
}

func (f faultyRows) CheckAndMutate(ctx context.Context, key string, c rows.Condition, then, otherwise []rows.Mutation) (held bool, err error) {
	err = f.i.do(ctx, "CheckAndMutate", func() (err error) {
		held, err = f.Store.CheckAndMutate(ctx, key, c, then, otherwise)
		return err
	})
	return held, err
}

func (f faultyRows) MutateRows(ctx context.Context, ms []rows.RowMutation) []error {
	all := func(err error) []error {
		errs := make([]error, len(ms))
		for k := range errs {
			errs[k] = err
		}
		return errs
	}
	switch f.i.next("MutateRows") {
	case none:
		return f.Store.MutateRows(ctx, ms)
	case lost:
		f.Store.MutateRows(ctx, ms)
		return all(errInjected)
	case partial:
		half := len(ms) / 2
		f.Store.MutateRows(ctx, ms[:half])
		errs := all(errInjected)
		clear(errs[:half])
		return errs
	case hang:
		<-ctx.Done()
		return all(ctx.Err())
	}
	return all(errInjected)
}

func (f faultyRows) DeletePrefix(ctx context.Context, p string) error {
	return f.i.do(ctx, "DeletePrefix", func() error { return f.Store.DeletePrefix(ctx, p) })
}

type faultyObjects struct {
	objects.Store
	i *injector
}

func (f faultyObjects) Put(ctx context.Context, name, path string, crc uint32) (o objects.Object, err error) {
	err = f.i.do(ctx, "Put", func() (err error) { o, err = f.Store.Put(ctx, name, path, crc); return err })
	return o, err
}

func (f faultyObjects) Get(ctx context.Context, name string, off int64, n int) (b []byte, err error) {
	err = f.i.do(ctx, "Get", func() (err error) { b, err = f.Store.Get(ctx, name, off, n); return err })
	return b, err
}

func (f faultyObjects) Stat(ctx context.Context, name string) (o objects.Object, err error) {
	err = f.i.do(ctx, "Stat", func() (err error) { o, err = f.Store.Stat(ctx, name); return err })
	return o, err
}

func (f faultyObjects) List(ctx context.Context, p string, visit func(objects.Object) bool) error {
	return f.i.do(ctx, "List", func() error { return f.Store.List(ctx, p, visit) })
}

func (f faultyObjects) Delete(ctx context.Context, name string) error {
	return f.i.do(ctx, "Delete", func() error { return f.Store.Delete(ctx, name) })
}
