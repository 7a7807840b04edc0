// Package faults plans one fault in a sequence of calls, over several ports
// together: what tests of crashes and of stores that do not answer put between the
// code and its ports. The decorators rows/faulty and objects/faulty ask it.
package faults

import (
	"context"
	"errors"
	"sync"
)

// ErrInjected is the error of a call that fails by plan.
var ErrInjected = errors.New("injected fault")

// Kind is what happens at one call of a port.
type Kind int

// Kinds of faults.
const (
	None        Kind = iota
	Rejected         // the call does nothing and fails
	Lost             // the call does its work and its answer is lost
	Partial          // a call over many rows does half of them; another one nothing
	Hang             // the call does nothing until its context ends
	Killed           // like Rejected, and so is every call after it
	KilledAfter      // like Lost, and every call after it is rejected
)

// String names the kind.
func (k Kind) String() string {
	return [...]string{"none", "rejected", "answer lost", "half done", "hangs", "killed before", "killed after"}[k]
}

// Kinds lists all that are faults.
func Kinds() []Kind { return []Kind{Rejected, Lost, Partial, Hang, Killed, KilledAfter} }

// Plan counts calls and has a fault at one of them. The zero Plan has none. It is
// safe for concurrent use.
type Plan struct {
	mu     sync.Mutex
	at     int
	kind   Kind
	names  []string
	dead   bool
	hook   func(call int, name string)
	hangAt string
}

// Fail has a fault at the nth call from now, counted from 1; 0 is none.
func (p *Plan) Fail(nth int, k Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.kind = len(p.names)+nth, k
}

// HangAt makes every call of a name hang.
func (p *Plan) HangAt(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hangAt = name
}

// Before has fn called before each call, with its number, from 1, and its name; nil
// ends that. The next call waits until fn returns, and so does every method of the
// plan: fn must not use it.
func (p *Plan) Before(fn func(call int, name string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = fn
}

// Heal ends all faults.
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

// Next counts a call that begins now and returns its fault: None, Rejected, Lost,
// Partial or Hang.
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

// Do runs a call under its fault.
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
