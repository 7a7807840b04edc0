package index

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Alertmanagers gives access to the rows of tenants' Alertmanagers: configurations, secrets, silences and
// notifications. docs/alertmanager.md describes the protocol of notifications.
type Alertmanagers struct{ table }

// AlertmanagerSettings are the settings of a tenant's Alertmanager. They are zero for a tenant that never configured
// anything.
type AlertmanagerSettings struct {
	Change  uint64 // random number of the last change; 0 if there was none
	Config  schema.AlertmanagerConfig
	Exists  bool              // whether a configuration is stored
	Secrets map[string][]byte // encrypted, by name
}

// Settings returns the configuration and the secrets of a tenant.
func (s *Alertmanagers) Settings(ctx context.Context, t tenant.ID) (AlertmanagerSettings, error) {
	var out AlertmanagerSettings
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.AlertmanagerKey(t))}, system(), func(r rows.Row) bool {
		for _, c := range r.Cells {
			broken = errors.Join(broken, out.add(c))
		}
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return AlertmanagerSettings{}, fmt.Errorf("read the Alertmanager configuration of tenant %s: %w", t, err)
	}
	return out, nil
}

// add adds the content of a cell of the row.
func (a *AlertmanagerSettings) add(c rows.Cell) (err error) {
	switch c.Qualifier {
	case schema.ChangeQualifier:
		a.Change, err = schema.DecodeChange(c.Value)
		return err
	case schema.AlertmanagerConfigQualifier:
		a.Config, err = schema.DecodeAlertmanagerConfig(c.Value)
		a.Exists = err == nil
		return err
	}
	if name, ok := schema.SecretName(c.Qualifier); ok {
		if a.Secrets == nil {
			a.Secrets = map[string][]byte{}
		}
		a.Secrets[name] = c.Value
	}
	return nil
}

// SettingsChange returns AlertmanagerSettings.Change.
func (s *Alertmanagers) SettingsChange(ctx context.Context, t tenant.ID) (uint64, error) {
	return s.lastChange(ctx, schema.AlertmanagerKey(t), t)
}

// SetConfig replaces the configuration of a tenant.
func (s *Alertmanagers) SetConfig(ctx context.Context, t tenant.ID, yaml string) error {
	c := schema.AlertmanagerConfig{YAML: yaml, Written: s.nowMillis()}
	return s.set(ctx, t, rows.Set(rows.System, schema.AlertmanagerConfigQualifier, 0, c.Encode()))
}

// DeleteConfig deletes the configuration of a tenant.
func (s *Alertmanagers) DeleteConfig(ctx context.Context, t tenant.ID) error {
	return s.set(ctx, t, rows.DeleteColumn(rows.System, schema.AlertmanagerConfigQualifier))
}

// SetSecret replaces a secret of a tenant. The value is encrypted by the caller.
func (s *Alertmanagers) SetSecret(ctx context.Context, t tenant.ID, name string, value []byte) error {
	return s.set(ctx, t, rows.Set(rows.System, schema.AlertmanagerSecretPrefix+name, 0, value))
}

// DeleteSecret deletes a secret of a tenant.
func (s *Alertmanagers) DeleteSecret(ctx context.Context, t tenant.ID, name string) error {
	return s.set(ctx, t, rows.DeleteColumn(rows.System, schema.AlertmanagerSecretPrefix+name))
}

// set writes one cell of the settings, and a new number of the last change. Of concurrent writes, the last one wins.
func (s *Alertmanagers) set(ctx context.Context, t tenant.ID, m rows.Mutation) error {
	err := s.rows.Mutate(ctx, rows.RowMutation{Key: schema.AlertmanagerKey(t), Mutations: []rows.Mutation{m, newChange()}})
	if err != nil {
		return fmt.Errorf("change the Alertmanager configuration of tenant %s: %w", t, err)
	}
	return nil
}

func newChange() rows.Mutation {
	return rows.Set(rows.System, schema.ChangeQualifier, 0, schema.EncodeChange(rand.Uint64()|1)) // 0 means none
}

func (s *Alertmanagers) lastChange(ctx context.Context, key string, t tenant.ID) (change uint64, err error) {
	var broken error
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Single(key)}, system(schema.ChangeQualifier), func(r rows.Row) bool {
		for _, c := range r.Cells {
			change, broken = schema.DecodeChange(c.Value)
		}
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return 0, fmt.Errorf("read the last change of the Alertmanager of tenant %s: %w", t, err)
	}
	return change, nil
}

// SilencesChange returns the random number of the last change of the tenant's silences, or 0 if there was none.
func (s *Alertmanagers) SilencesChange(ctx context.Context, t tenant.ID) (uint64, error) {
	return s.lastChange(ctx, schema.SilencesKey(t), t)
}

// Silences returns the silences of a tenant by ID, and the number of their last change. It returns an error if a
// silence cannot be decoded: without that silence, Pallium would send notifications that a user has silenced.
func (s *Alertmanagers) Silences(ctx context.Context, t tenant.ID) (list map[string]schema.Silence, change uint64, err error) {
	list = map[string]schema.Silence{}
	var broken error
	err = s.rows.ReadRows(ctx, []rows.Range{rows.Single(schema.SilencesKey(t))}, system(), func(r rows.Row) bool {
		for _, c := range r.Cells {
			if c.Qualifier == schema.ChangeQualifier {
				v, err := schema.DecodeChange(c.Value)
				change, broken = v, errors.Join(broken, err)
				continue
			}
			if id, ok := schema.SilenceID(c.Qualifier); ok {
				v, err := schema.DecodeSilence(c.Value)
				list[id], broken = v, errors.Join(broken, err)
			}
		}
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return nil, 0, fmt.Errorf("read the silences of tenant %s: %w", t, err)
	}
	return list, change, nil
}

// ErrSilenceChanged is returned for a change of a silence that another request has changed in the meantime.
var ErrSilenceChanged = errors.New("the silence was changed by another request at the same time; read it and try again")

// maxSilenceAttempts is the maximum number of attempts to change silences. Each conflict means that another change
// succeeded.
const maxSilenceAttempts = 30

// SetSilences writes all silences of the list, which maps IDs to silences, or none. It returns ErrSilenceChanged if a
// different silence is stored that is not older. It is not an error if an equal silence is already stored.
func (s *Alertmanagers) SetSilences(ctx context.Context, t tenant.ID, list map[string]schema.Silence) error {
	var last error
	for i := range maxSilenceAttempts {
		if err := pause(ctx, i); err != nil {
			return errors.Join(fmt.Errorf("write silences of tenant %s: %w", t, err), last)
		}
		stored, change, err := s.Silences(ctx, t)
		if err != nil {
			return errors.Join(err, last)
		}
		var ms []rows.Mutation
		for id, v := range list {
			old, ok := stored[id]
			if ok && old == v {
				continue // an earlier attempt, whose outcome was unknown, succeeded
			}
			if ok && old.Updated >= v.Updated {
				return fmt.Errorf("write silence %s of tenant %s: %w", id, t, ErrSilenceChanged)
			}
			ms = append(ms, rows.Set(rows.System, schema.SilencePrefix+id, 0, v.Encode()))
		}
		if len(ms) == 0 {
			return nil
		}
		held, err := s.rows.CheckAndMutate(ctx, schema.SilencesKey(t), unchanged(change), append(ms, newChange()), nil)
		if err == nil && held {
			return nil
		}
		if errors.Is(err, rows.ErrInvalid) {
			return fmt.Errorf("write silences of tenant %s: %w", t, err)
		}
		last = err
	}
	return errors.Join(fmt.Errorf("write silences of tenant %s: no attempt of %d succeeded, because of concurrent changes or errors", t,
		maxSilenceAttempts), last)
}

// unchanged returns the condition that the given change is still the last one of the row.
func unchanged(change uint64) rows.Condition {
	if change == 0 {
		return rows.Absent(rows.System, schema.ChangeQualifier)
	}
	return rows.ValueIs(rows.System, schema.ChangeQualifier, schema.EncodeChange(change))
}

// ForgetSilences deletes the silences that expired before a time in Unix milliseconds. It deletes nothing if silences
// are changed concurrently. The number of the last change stays: replicas forget expired silences themselves.
func (s *Alertmanagers) ForgetSilences(ctx context.Context, t tenant.ID, before int64) error {
	list, change, err := s.Silences(ctx, t)
	if err != nil {
		return err
	}
	var ms []rows.Mutation
	for id, v := range list {
		if v.Expires < before {
			ms = append(ms, rows.DeleteColumn(rows.System, schema.SilencePrefix+id))
		}
	}
	if len(ms) == 0 {
		return nil
	}
	if _, err := s.rows.CheckAndMutate(ctx, schema.SilencesKey(t), unchanged(change), ms, nil); err != nil {
		return fmt.Errorf("delete expired silences of tenant %s: %w", t, err)
	}
	return nil
}
