// Package faults injects a fault into a sequence of calls of one or several ports, for tests of
// crashes and of stores that do not respond. The decorators rows/faulty and objects/faulty
// apply it.
package faults

import (
	"context"
	"errors"
	"sync"
)

// ErrInjected is the error of a call with an injected fault.
var ErrInjected = errors.New("injected fault")

// Kind is a kind of fault.
type Kind int

// Kinds of faults.
const (
	None        Kind = iota
	Rejected         // the call does nothing and fails
	Lost             // the call is executed, and fails as if its response was lost
	Partial          // a call for many rows is executed for half of them and fails; any other call is Rejected
	Hang             // the call does nothing until its context is done
	Killed           // this call and all later ones are Rejected
	KilledAfter      // this call is Lost and all later ones are Rejected
)

// String returns the name of the kind.
func (k Kind) String() string {
	return [...]string{"none", "rejected", "response lost", "half done", "hangs", "killed before", "killed after"}[k]
}

// Kinds returns all kinds except None.
func Kinds() []Kind { return []Kind{Rejected, Lost, Partial, Hang, Killed, KilledAfter} }

// Plan counts calls and injects a fault into one of them. The zero Plan injects none. It is safe
// for concurrent use.
type Plan struct {
	mu     sync.Mutex
	at     int
	kind   Kind
	names  []string
	dead   bool
	hook   func(call int, name string)
	hangAt string
}

// Fail injects a fault into the nth call from now, counted from 1; 0 injects none.
func (p *Plan) Fail(nth int, k Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.kind = len(p.names)+nth, k
}

// HangAt makes every call with the name hang.
func (p *Plan) HangAt(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hangAt = name
}

// Before sets a function that runs before each call, with the number of the call, counted from
// 1, and its name; nil removes it. fn must not use the plan, which is locked while it runs.
func (p *Plan) Before(fn func(call int, name string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = fn
}

// Heal removes all faults, and the function of Before.
func (p *Plan) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead, p.at, p.hook, p.hangAt = false, 0, nil, ""
}

// Calls returns the names of the calls so far.
func (p *Plan) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.names...)
}

// Next counts a call that starts now and returns its fault: None, Rejected, Lost, Partial or
// Hang. After a kill it counts no call and returns Rejected.
func (p *Plan) Next(name string) Kind {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return Rejected
	}
	p.names = append(p.names, name)
	if p.hook != nil {
		p.hook(len(p.names), name)
	}
	if p.hangAt == name {
		return Hang
	}
	if len(p.names) != p.at {
		return None
	}
	switch p.kind {
	case Killed:
		p.dead = true
		return Rejected
	case KilledAfter:
		p.dead = true
		return Lost
	}
	return p.kind
}

// Do runs a call with its fault, if any.
func (p *Plan) Do(ctx context.Context, name string, call func() error) error {
	switch p.Next(name) {
	case None:
		return call()
	case Lost:
		return errors.Join(call(), ErrInjected)
	case Hang:
		<-ctx.Done()
		return ctx.Err()
	}
	return ErrInjected
}
