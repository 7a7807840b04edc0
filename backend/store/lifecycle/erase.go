package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/index"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/store"
)

// Erase deletes all compacted packs, and all rows of the index, of a deleted tenant. It is called
// repeatedly, to delete data that was still being written during earlier calls. L0
// packs have samples of many tenants; the sweep deletes them a week after they are
// compacted.
func (k *Keeper) Erase(ctx context.Context, t tenant.ID) (index.Erased, error) {
	var e index.Erased
	gone, err := k.opts.Deleted(ctx, t)
	if err != nil {
		return e, err
	}
	if !gone {
		return e, fmt.Errorf("erase tenant %s: the tenant is not deleted", t)
	}
	if e.Rows, err = k.index.Tenants.Erase(ctx, t); err != nil {
		return e, err
	}
	if err = k.index.Rules.Forget(ctx, t); err != nil {
		return e, err
	}
	var broken error
	err = k.opts.Objects.List(ctx, store.ObjectDir(t)+"/", func(o objects.Object) bool {
		if broken = k.opts.Objects.Delete(ctx, o.Name); broken != nil {
			return false
		}
		e.Objects++
		e.Bytes += o.Size
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return e, fmt.Errorf("erase objects of tenant %s: %w", t, err)
	}
	if !e.Rows && e.Objects == 0 {
		return e, nil
	}
	return e, k.report(ctx, t, e)
}

// CleanAlertmanager deletes the expired silences and notifications of a tenant.
func (k *Keeper) CleanAlertmanager(ctx context.Context, t tenant.ID, now time.Time) error {
	before := now.UnixMilli()
	return errors.Join(k.index.Alertmanagers.ForgetSilences(ctx, t, before), k.index.Alertmanagers.ForgetNotifications(ctx, t, before))
}

// report adds e to the totals of a tenant's erased data.
func (k *Keeper) report(ctx context.Context, t tenant.ID, e index.Erased) error {
	all, err := k.index.Tenants.Erasure(ctx, t)
	if err != nil {
		return err
	}
	all.Objects, all.Bytes, all.Rows, all.Last = all.Objects+e.Objects, all.Bytes+e.Bytes, all.Rows || e.Rows, k.nowMillis()
	return k.index.Tenants.SetErasure(ctx, t, all)
}

// Erasure returns the totals of a deleted tenant's data erased so far, or zeros.
func (k *Keeper) Erasure(ctx context.Context, t tenant.ID) (index.Erased, error) {
	return k.index.Tenants.Erasure(ctx, t)
}
