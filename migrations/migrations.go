// Package migrations brings a row store to the layout that this binary knows:
// tables, families and their rules, and the layout of index and control data. It
// is a list of numbered steps, each of which can tell whether it is done and can
// be repeated. The store remembers its version, so that a binary rejects one
// that is newer than itself.
package migrations

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/palliumhq/pallium/backend/rows"
)

// Tables makes tables and families where the store does not do so itself.
type Tables interface {
	// Ready reports whether everything is there as it should be.
	Ready(ctx context.Context) (bool, error)
	// Create makes what is missing. It may be repeated, also at the same time.
	Create(ctx context.Context) error
}

// Env is what steps work on.
type Env struct {
	Tables Tables                                    // nil: the store has none to make
	Open   func(context.Context) (rows.Store, error) // called once the tables are there
	Holder string                                    // names this run in the lock
	Binary string                                    // version of this binary
	Now    func() time.Time
	Logger *slog.Logger
}

// Step is one numbered change. Numbers are never used again.
type Step struct {
	Number int
	Name   string
	// Done reports whether the step has nothing to do.
	Done func(ctx context.Context, s rows.Store) (bool, error)
	// Apply does it. It may be interrupted anywhere and repeated.
	Apply func(ctx context.Context, s rows.Store, now int64) error
}

// Steps are all steps, ascending. Tables come before them, since the store's
// version stands in a row.
func Steps() []Step {
	return []Step{
		{1, "layout of the control data, 1", marked("control"), mark("control", 1)},
		{2, "layout of the index, 1", marked("index"), mark("index", 1)},
	}
}

// Latest is the version of a store that this binary writes.
func Latest() int { return len(Steps()) }

// The row of the store's own version. No other key begins with 00.
const (
	stateKey     = "\x00store"
	versionCell  = "version"
	lockCell     = "lock"
	lockLife     = time.Minute
	layoutPrefix = "layout/"
)

// state is what the store remembers of itself.
type state struct {
	Version int    `json:"version"`
	Binary  string `json:"binary"` // that brought it there
}

type lock struct {
	Holder string `json:"holder"`
	Until  int64  `json:"until_ms"`
}

// ErrNewer is in the error of a store that a newer binary has migrated.
var ErrNewer = errors.New("store is newer than this binary")

// ErrBehind is in the error of a store that must be migrated first.
var ErrBehind = errors.New("store must be migrated")

// ErrLocked is in the error of a run that met another one.
var ErrLocked = errors.New("another migration is running")

// Check reports whether this binary may serve from the store.
func Check(ctx context.Context, s rows.Store) error {
	st, _, err := load(ctx, s)
	if err != nil {
		return err
	}
	switch {
	case st.Version > Latest():
		return tooNew(st)
	case st.Version < Latest():
		return fmt.Errorf("%w: it has version %d, this binary needs %d; run: pallium migrate up", ErrBehind, st.Version, Latest())
	}
	return nil
}

func tooNew(st state) error {
	return fmt.Errorf("%w: it has version %d, this binary knows versions up to %d; run Pallium %s or newer",
		ErrNewer, st.Version, Latest(), st.Binary)
}

// Status is where a store stands.
type Status struct {
	Tables  bool // are as they should be
	Version int
	Binary  string // that brought it there
	Latest  int
	Steps   []StepStatus
}

// StepStatus is a step and whether it is done.
type StepStatus struct {
	Number int
	Name   string
	Done   bool
}

// Look reports where the store stands, and changes nothing.
func Look(ctx context.Context, e Env) (out Status, err error) {
	out = Status{Tables: true, Latest: Latest()}
	if e.Tables != nil {
		ready, err := e.Tables.Ready(ctx)
		if err != nil {
			return out, err
		}
		if out.Tables = ready; !ready {
			for _, step := range Steps() {
				out.Steps = append(out.Steps, StepStatus{step.Number, step.Name, false})
			}
			return out, nil
		}
	}
	s, err := e.Open(ctx)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	st, _, err := load(ctx, s)
	if err != nil {
		return out, err
	}
	out.Version, out.Binary = st.Version, st.Binary
	for _, step := range Steps() {
		done, err := step.Done(ctx, s)
		if err != nil {
			return out, fmt.Errorf("step %d, %s: %w", step.Number, step.Name, err)
		}
		out.Steps = append(out.Steps, StepStatus{step.Number, step.Name, done && st.Version >= step.Number})
	}
	return out, nil
}

// Up brings the store to the version of this binary. It may be repeated; two
// runs do not meet.
func Up(ctx context.Context, e Env) (err error) {
	if e.Tables != nil {
		if err := e.Tables.Create(ctx); err != nil {
			return err
		}
	}
	s, err := e.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return e.up(ctx, s)
}

// UpOpen is Up for a store that is open already and has its tables.
func UpOpen(ctx context.Context, e Env, s rows.Store) error { return e.up(ctx, s) }

func (e *Env) up(ctx context.Context, s rows.Store) error {
	if e.Now == nil {
		e.Now = time.Now
	}
	st, _, err := load(ctx, s)
	if err != nil {
		return err
	}
	if st.Version > Latest() {
		return tooNew(st)
	}
	if st.Version == Latest() {
		return nil
	}
	if err := e.acquire(ctx, s); err != nil {
		return err
	}
	// Another run may have finished between the look and the lock.
	if st, _, err = load(ctx, s); err != nil {
		return err
	}
	for _, step := range Steps() {
		if step.Number <= st.Version {
			continue
		}
		if err := e.apply(ctx, s, step); err != nil {
			return errors.Join(fmt.Errorf("migration step %d, %s: %w", step.Number, step.Name, err), e.release(ctx, s))
		}
	}
	return e.release(ctx, s)
}

// apply does one step and then writes the version.
func (e *Env) apply(ctx context.Context, s rows.Store, step Step) error {
	done, err := step.Done(ctx, s)
	if err != nil {
		return err
	}
	if !done {
		if err := step.Apply(ctx, s, e.Now().UnixMilli()); err != nil {
			return err
		}
		if done, err = step.Done(ctx, s); err != nil {
			return err
		}
		if !done {
			return errors.New("it was applied and is still not done")
		}
	}
	if err := e.acquire(ctx, s); err != nil { // renews; a run that lost the lock must not go on
		return err
	}
	v, err := json.Marshal(state{Version: step.Number, Binary: e.Binary})
	if err != nil {
		return err
	}
	m := rows.RowMutation{Key: stateKey, Mutations: []rows.Mutation{rows.Set(rows.System, versionCell, 0, v)}}
	if err := s.Mutate(ctx, m); err != nil {
		return err
	}
	if e.Logger != nil {
		e.Logger.Info("store migrated", "step", step.Number, "name", step.Name)
	}
	return nil
}

// load reads version and lock. A store without them has version 0.
func load(ctx context.Context, s rows.Store) (st state, held []byte, err error) {
	var bad error
	err = s.ReadRows(
		ctx,
		[]rows.Range{rows.Single(stateKey)},
		rows.Filter{Families: []rows.Family{rows.System}, Latest: true},
		func(r rows.Row) bool {
			if c, ok := r.Cell(rows.System, versionCell); ok {
				bad = json.Unmarshal(c.Value, &st)
			}
			if c, ok := r.Cell(rows.System, lockCell); ok {
				held = c.Value
			}
			return true
		},
	)
	if err = errors.Join(err, bad); err != nil {
		return st, held, fmt.Errorf("read the store's version: %w", err)
	}
	return st, held, nil
}

// acquire takes or renews the lock.
func (e *Env) acquire(ctx context.Context, s rows.Store) error {
	_, held, err := load(ctx, s)
	if err != nil {
		return err
	}
	condition := rows.Absent(rows.System, lockCell)
	if held != nil {
		var l lock
		if err := json.Unmarshal(held, &l); err != nil {
			return fmt.Errorf("read the migration's lock: %w", err)
		}
		if l.Holder != e.Holder && l.Until > e.Now().UnixMilli() {
			return fmt.Errorf("%w: %s holds the lock; wait until it ends, or for a minute if it was killed", ErrLocked, l.Holder)
		}
		condition = rows.ValueIs(rows.System, lockCell, held)
	}
	next, err := json.Marshal(lock{Holder: e.Holder, Until: e.Now().Add(lockLife).UnixMilli()})
	if err != nil {
		return err
	}
	ok, err := s.CheckAndMutate(ctx, stateKey, condition, []rows.Mutation{rows.Set(rows.System, lockCell, 0, next)}, nil)
	if err != nil {
		return fmt.Errorf("take the migration's lock: %w", err)
	}
	if !ok {
		return fmt.Errorf("%w: it took the lock just now", ErrLocked)
	}
	return nil
}

// release gives the lock back if it is still this run's.
func (e *Env) release(ctx context.Context, s rows.Store) error {
	_, held, err := load(ctx, s)
	if err != nil || held == nil {
		return err
	}
	var l lock
	if err := json.Unmarshal(held, &l); err != nil || l.Holder != e.Holder {
		return err
	}
	_, err = s.CheckAndMutate(ctx, stateKey, rows.ValueIs(rows.System, lockCell, held),
		[]rows.Mutation{rows.DeleteColumn(rows.System, lockCell)}, nil)
	return err
}

// marked and mark are steps that only say which layout a part of the store has.
// The layouts of version 1 are those that stores had before versions were kept.
func marked(part string) func(context.Context, rows.Store) (bool, error) {
	return func(ctx context.Context, s rows.Store) (found bool, err error) {
		err = s.ReadRows(ctx, []rows.Range{rows.Single(stateKey)},
			rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: []string{layoutPrefix + part}, Latest: true},
			func(rows.Row) bool { found = true; return true })
		return found, err
	}
}

func mark(part string, layout int) func(context.Context, rows.Store, int64) error {
	return func(ctx context.Context, s rows.Store, _ int64) error {
		return s.Mutate(ctx,
			rows.RowMutation{Key: stateKey, Mutations: []rows.Mutation{rows.Set(rows.System, layoutPrefix+part, 0, []byte(fmt.Sprint(layout)))}})
	}
}
