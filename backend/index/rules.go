package index

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Rules gives access to the rows with the rules of tenants. A change and the version of a tenant's
// rules are in one row, so that no change is lost.
type Rules struct{ table }

// RuleGroup is a stored group of rules.
type RuleGroup struct {
	Namespace, Name string
	YAML            string
	Written         int64 // Unix milliseconds
	Err             error // set if the value is corrupt or from a newer version; YAML is empty then
}

// RuleSet are the rules of a tenant, sorted by namespace and name. Version is zero if the tenant never
// had rules.
type RuleSet struct {
	Version schema.RulesVersion
	Groups  []RuleGroup
}

// List returns the rules of a tenant. A group that cannot be decoded has an error, and does not
// prevent the others from being read.
func (s *Rules) List(ctx context.Context, t tenant.ID) (RuleSet, error) {
	var set RuleSet
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.RulesKey(t))}, system(), func(r rows.Row) bool {
		set, broken = decodeRules(r)
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return RuleSet{}, fmt.Errorf("read rules of tenant %s: %w", t, err)
	}
	return set, nil
}

func decodeRules(r rows.Row) (set RuleSet, err error) {
	for _, c := range r.Cells {
		if c.Family != rows.System {
			continue
		}
		if c.Qualifier == schema.RulesVersionQualifier {
			if set.Version, err = schema.DecodeRulesVersion(c.Value); err != nil {
				return set, err
			}
			continue
		}
		if g, ok := decodeGroup(c); ok {
			set.Groups = append(set.Groups, g)
		}
	}
	return set, nil
}

// decodeGroup decodes the cell of a group. ok is false for another cell.
func decodeGroup(c rows.Cell) (g RuleGroup, ok bool) {
	namespace, name, ok := schema.ParseRuleGroupQualifier(c.Qualifier)
	if !ok {
		return g, false
	}
	v, err := schema.DecodeRuleGroup(c.Value)
	if err != nil {
		err = fmt.Errorf("group %q of namespace %q: %w", name, namespace, err)
	}
	return RuleGroup{Namespace: namespace, Name: name, YAML: v.YAML, Written: v.Written, Err: err}, true
}

// Get returns a group of a tenant. ok is false if it does not exist.
func (s *Rules) Get(ctx context.Context, t tenant.ID, namespace, name string) (g RuleGroup, ok bool, err error) {
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.RulesKey(t))}, system(schema.RuleGroupQualifier(namespace, name)),
		func(r rows.Row) bool {
			for _, c := range r.Cells {
				g, ok = decodeGroup(c)
			}
			return true
		})
	if err == nil {
		err = g.Err
	}
	if err != nil {
		return RuleGroup{}, false, fmt.Errorf("read rules of tenant %s: %w", t, err)
	}
	return g, ok, nil
}

// Put creates or replaces a group. First it calls `check` with the current rules, again after each
// conflict, and returns the error of `check`.
func (s *Rules) Put(ctx context.Context, t tenant.ID, g RuleGroup, check func(RuleSet) error) error {
	if err := s.register(ctx, t); err != nil {
		return err
	}
	value := schema.RuleGroup{YAML: g.YAML, Written: s.nowMillis()}
	return s.change(ctx, t, func(set RuleSet, _ bool) ([]rows.Mutation, error) {
		if err := check(set); err != nil {
			return nil, err
		}
		return []rows.Mutation{rows.Set(rows.System, schema.RuleGroupQualifier(g.Namespace, g.Name), 0, value.Encode())}, nil
	})
}

// Delete deletes a group with its backfill. It returns false if the group does not exist.
func (s *Rules) Delete(ctx context.Context, t tenant.ID, namespace, name string) (bool, error) {
	return s.remove(ctx, t, func(g *RuleGroup) bool { return g.Namespace == namespace && g.Name == name })
}

// DeleteNamespace deletes all groups of a namespace with their backfills. It returns false if there are none.
func (s *Rules) DeleteNamespace(ctx context.Context, t tenant.ID, namespace string) (bool, error) {
	return s.remove(ctx, t, func(g *RuleGroup) bool { return g.Namespace == namespace })
}

// remove deletes the groups that match.
func (s *Rules) remove(ctx context.Context, t tenant.ID, matches func(*RuleGroup) bool) (found bool, err error) {
	err = s.change(ctx, t, func(set RuleSet, repeated bool) ([]rows.Mutation, error) {
		var ms []rows.Mutation
		for i := range set.Groups {
			if g := &set.Groups[i]; matches(g) {
				ms = append(ms, rows.DeleteColumn(rows.System, schema.RuleGroupQualifier(g.Namespace, g.Name)),
					rows.DeleteColumn(rows.System, schema.BackfillQualifier(g.Namespace, g.Name)))
			}
		}
		// An earlier attempt, whose outcome is unknown, may have deleted them.
		found = found && repeated || len(ms) > 0
		return ms, nil
	})
	return found, err
}

// maxRulesAttempts is the maximum number of attempts to change rules. Each conflict means that another change
// succeeded.
const maxRulesAttempts = 30

// change applies mutations to the rules of a tenant and increases their version, in one write that
// is conditional on the version. After a conflict it calls `mutations` with the new rules and tries
// again. After an attempt with an unknown outcome it reads the version, to find out whether the attempt
// succeeded; `repeated` is set from then on. Without mutations, it does nothing.
func (s *Rules) change(ctx context.Context, t tenant.ID, mutations func(set RuleSet, repeated bool) ([]rows.Mutation, error)) error {
	var unknown []schema.RulesVersion
	var last error
	for i := range maxRulesAttempts {
		if err := pause(ctx, i); err != nil {
			return errors.Join(fmt.Errorf("change rules of tenant %s: %w", t, err), last)
		}
		set, err := s.List(ctx, t)
		if err != nil {
			return errors.Join(err, last)
		}
		if slices.Contains(unknown, set.Version) {
			return nil // the attempt succeeded
		}
		ms, err := mutations(set, len(unknown) > 0)
		if err != nil || len(ms) == 0 {
			return err
		}
		condition := rows.Absent(rows.System, schema.RulesVersionQualifier)
		if set.Version.Number > 0 {
			condition = rows.ValueIs(rows.System, schema.RulesVersionQualifier, set.Version.Encode())
		}
		next := schema.RulesVersion{Number: set.Version.Number + 1, Attempt: rand.Uint64()}
		ms = append(ms, rows.Set(rows.System, schema.RulesVersionQualifier, 0, next.Encode()))
		held, err := s.rows.CheckAndMutate(ctx, schema.RulesKey(t), condition, ms, nil)
		if err == nil && held {
			return nil
		}
		if errors.Is(err, rows.ErrInvalid) {
			return fmt.Errorf("change rules of tenant %s: %w", t, err)
		}
		if err != nil {
			unknown, last = append(unknown, next), err
		}
	}
	return errors.Join(fmt.Errorf("change rules of tenant %s: no attempt of %d succeeded, because of concurrent changes or errors", t,
		maxRulesAttempts), last)
}

// pause waits before attempt i, for a random time, so that concurrent writers do not conflict again.
func pause(ctx context.Context, i int) error {
	if i == 0 {
		return nil
	}
	timer := time.NewTimer(rand.N(min(5*time.Millisecond<<i, 250*time.Millisecond)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// register adds a tenant to the tenants with rules. This happens before the first change, so that rulers
// find every tenant whose row has rules.
func (s *Rules) register(ctx context.Context, t tenant.ID) error {
	found := false
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.RuledKey())}, system(string(t)), func(rows.Row) bool {
		found = true
		return true
	})
	if err == nil && !found {
		err = s.rows.Mutate(ctx, rows.RowMutation{Key: schema.RuledKey(), Mutations: []rows.Mutation{rows.Set(rows.System, string(t), 0, nil)}})
	}
	if err != nil {
		return fmt.Errorf("add tenant %s to the tenants with rules: %w", t, err)
	}
	return nil
}

// Forget removes a deleted tenant, whose row was erased, from the tenants with rules.
func (s *Rules) Forget(ctx context.Context, t tenant.ID) error {
	err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.RuledKey(), Mutations: []rows.Mutation{rows.DeleteColumn(rows.System, string(t))}})
	if err != nil {
		return fmt.Errorf("remove tenant %s from the tenants with rules: %w", t, err)
	}
	return nil
}

// Tenants returns the tenants that may have rules, because they stored some or tried to, in ascending order.
func (s *Rules) Tenants(ctx context.Context) ([]tenant.ID, error) {
	var out []tenant.ID
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.RuledKey())}, system(), func(r rows.Row) bool {
		for _, c := range r.Cells {
			t, err := tenant.ParseID(c.Qualifier)
			if err != nil {
				broken = fmt.Errorf("%w: %q: %w", ErrInconsistent, c.Qualifier, err)
				return false
			}
			out = append(out, t)
		}
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return nil, fmt.Errorf("read the tenants with rules: %w", err)
	}
	return out, nil
}

// versionsInRead is the maximum number of versions that one read returns.
const versionsInRead = 1000

// Versions returns the versions of the rules of tenants. Tenants that never had rules are not in the
// result.
func (s *Rules) Versions(ctx context.Context, tenants []tenant.ID) (map[tenant.ID]schema.RulesVersion, error) {
	out := make(map[tenant.ID]schema.RulesVersion, len(tenants))
	for part := range slices.Chunk(tenants, versionsInRead) {
		ranges := make([]rows.Range, 0, len(part))
		for _, t := range part {
			ranges = append(ranges, rows.Single(schema.RulesKey(t)))
		}
		var broken error
		err := s.rows.ReadRows(ctx, ranges, system(schema.RulesVersionQualifier), func(r rows.Row) bool {
			t, _ := schema.TenantOf(r.Key)
			for _, c := range r.Cells {
				v, err := schema.DecodeRulesVersion(c.Value)
				if err != nil {
					broken = errors.Join(broken, fmt.Errorf("tenant %s: %w", t, err))
					continue
				}
				out[t] = v
			}
			return true
		})
		if err = errors.Join(err, broken); err != nil {
			return nil, fmt.Errorf("read versions of rules: %w", err)
		}
	}
	return out, nil
}
