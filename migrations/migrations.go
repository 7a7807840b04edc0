// Package migrations upgrades a row store to the layout of this binary: tables, families and
// their rules, and the layout of index and control data. It is a list of numbered steps; each
// can check whether it is done, and is idempotent. The version of the store is stored in the
// store, so that a binary rejects a store newer than itself.
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

// Tables creates tables and families, for stores that need them to be created.
type Tables interface {
	// Ready reports whether all tables, families and rules exist.
	Ready(ctx context.Context) (bool, error)
	// Create creates missing tables, families and rules. It is idempotent and safe for concurrent use.
	Create(ctx context.Context) error
}

// Env is the environment of a migration.
type Env struct {
	Tables Tables                                    // nil if the store needs no tables to be created
	Open   func(context.Context) (rows.Store, error) // called when the tables exist
	Holder string                                    // identifies this run in the lock
	Binary string                                    // version of this binary
	Now    func() time.Time
	Logger *slog.Logger
}

// Step is one numbered change. Numbers are never reused.
type Step struct {
	Number int
	Name   string
	// Done reports whether the step is done.
	Done func(ctx context.Context, s rows.Store) (bool, error)
	// Apply applies the step. It may be interrupted at any point and repeated. now is in
	// Unix milliseconds.
	Apply func(ctx context.Context, s rows.Store, now int64) error
}

// Steps returns all steps, ascending. Tables are created before the first step, because the
// version of the store is in a row.
func Steps() []Step {
	return []Step{
		{1, "layout of the control data, 1", marked("control"), mark("control", 1)},
		{2, "layout of the index, 1", marked("index"), mark("index", 1)},
	}
}

// Latest returns the version of the stores of this binary.
func Latest() int { return len(Steps()) }

// The row with the version of the store. No other key begins with 00.
const (
	stateKey     = "\x00store"
	versionCell  = "version"
	lockCell     = "lock"
	lockLife     = time.Minute
	layoutPrefix = "layout/"
)

// state is the version of the store.
type state struct {
	Version int    `json:"version"`
	Binary  string `json:"binary"` // version of the binary that migrated the store to Version
}

type lock struct {
	Holder string `json:"holder"`
	Until  int64  `json:"until_ms"`
}

// ErrNewer is wrapped by the error for a store that a newer binary has migrated.
var ErrNewer = errors.New("store is newer than this binary")

// ErrBehind is wrapped by the error for a store that must be migrated first.
var ErrBehind = errors.New("store must be migrated")

// ErrLocked is wrapped by the error of a migration that cannot start because another one is running.
var ErrLocked = errors.New("another migration is running")

// Check returns an error unless the store has the version of this binary.
func Check(ctx context.Context, s rows.Store) error {
	st, _, err := load(ctx, s)
	if err != nil {
		return err
	}
	switch {
	case st.Version > Latest():
		return tooNew(st)
	case st.Version < Latest():
		return fmt.Errorf("%w: store version %d, this binary needs version %d; run: pallium migrate up", ErrBehind, st.Version, Latest())
	}
	return nil
}

func tooNew(st state) error {
	return fmt.Errorf("%w: store version %d, this binary supports versions up to %d; run Pallium %s or newer",
		ErrNewer, st.Version, Latest(), st.Binary)
}

// Status is the state of a store's migration.
type Status struct {
	Tables  bool // all tables, families and rules exist
	Version int
	Binary  string // version of the binary that migrated the store to Version
	Latest  int
	Steps   []StepStatus
}

// StepStatus is a step and whether it is done.
type StepStatus struct {
	Number int
	Name   string
	Done   bool
}

// Look returns the state of the store's migration, without changing the store.
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

// Up migrates the store to the version of this binary. It is idempotent. It returns ErrLocked
// if another migration is running.
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

// UpOpen is Up for an open store that has its tables.
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
	// Another run may have finished before this one acquired the lock.
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

// apply applies one step and then writes the version.
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
			return errors.New("the step is still not done after it was applied")
		}
	}
	if err := e.acquire(ctx, s); err != nil { // renews the lock; a run that lost it must stop
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

// load reads the version and the lock. A store without a version has version 0.
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

// acquire acquires or renews the lock.
func (e *Env) acquire(ctx context.Context, s rows.Store) error {
	_, held, err := load(ctx, s)
	if err != nil {
		return err
	}
	condition := rows.Absent(rows.System, lockCell)
	if held != nil {
		var l lock
		if err := json.Unmarshal(held, &l); err != nil {
			return fmt.Errorf("read the migration lock: %w", err)
		}
		if l.Holder != e.Holder && l.Until > e.Now().UnixMilli() {
			return fmt.Errorf("%w: %s holds the lock; wait until it ends, or one minute if it was killed", ErrLocked, l.Holder)
		}
		condition = rows.ValueIs(rows.System, lockCell, held)
	}
	next, err := json.Marshal(lock{Holder: e.Holder, Until: e.Now().Add(lockLife).UnixMilli()})
	if err != nil {
		return err
	}
	ok, err := s.CheckAndMutate(ctx, stateKey, condition, []rows.Mutation{rows.Set(rows.System, lockCell, 0, next)}, nil)
	if err != nil {
		return fmt.Errorf("acquire the migration lock: %w", err)
	}
	if !ok {
		return fmt.Errorf("%w: another run acquired the lock at the same time", ErrLocked)
	}
	return nil
}

// release releases the lock if this run still has it.
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

// marked returns the Done function of a step that only records the layout version of a part of the
// store. Stores that were created before versions were recorded have the layouts of version 1.
func marked(part string) func(context.Context, rows.Store) (bool, error) {
	return func(ctx context.Context, s rows.Store) (found bool, err error) {
		err = s.ReadRows(ctx, []rows.Range{rows.Single(stateKey)},
			rows.Filter{Families: []rows.Family{rows.System}, Qualifiers: []string{layoutPrefix + part}, Latest: true},
			func(rows.Row) bool { found = true; return true })
		return found, err
	}
}

// mark returns the Apply function of a step that only records the layout of a part.
func mark(part string, layout int) func(context.Context, rows.Store, int64) error {
	return func(ctx context.Context, s rows.Store, _ int64) error {
		return s.Mutate(ctx,
			rows.RowMutation{Key: stateKey, Mutations: []rows.Mutation{rows.Set(rows.System, layoutPrefix+part, 0, []byte(fmt.Sprint(layout)))}})
	}
}
