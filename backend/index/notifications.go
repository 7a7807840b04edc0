package index

import (
	"context"
	"errors"
	"fmt"

	"github.com/palliumhq/pallium/authn/tenant"
	"github.com/palliumhq/pallium/backend/rows"
	"github.com/palliumhq/pallium/backend/schema"
)

// Notification returns the notification of the row with a key, which schema.NotificationKey returns. The notification is
// zero if the row does not exist.
func (s *Alertmanagers) Notification(ctx context.Context, key string) (schema.Notification, error) {
	var out schema.Notification
	var broken error
	err := s.rows.ReadRows(ctx, []rows.Range{rows.Single(key)}, system(schema.NotificationQualifier), func(r rows.Row) bool {
		for _, c := range r.Cells {
			out, broken = schema.DecodeNotification(c.Value)
		}
		return true
	})
	if err = errors.Join(err, broken); err != nil {
		return schema.Notification{}, fmt.Errorf("read a notification: %w", err)
	}
	return out, nil
}

// ReplaceNotification writes `next` if the row still contains `old`, and reports whether it did. After an error, the
// row may or may not have been written.
func (s *Alertmanagers) ReplaceNotification(ctx context.Context, key string, old, next schema.Notification) (bool, error) {
	condition := rows.Absent(rows.System, schema.NotificationQualifier)
	if old != (schema.Notification{}) {
		condition = rows.ValueIs(rows.System, schema.NotificationQualifier, old.Encode())
	}
	held, err := s.rows.CheckAndMutate(ctx, key, condition,
		[]rows.Mutation{rows.Set(rows.System, schema.NotificationQualifier, 0, next.Encode())}, nil)
	if err != nil {
		return false, fmt.Errorf("write a notification: %w", err)
	}
	return held, nil
}

// forgetBatch is the maximum number of notifications that are in memory while expired ones are deleted.
const forgetBatch = 1000

// ForgetNotifications deletes the notifications of a tenant that expired before a time in Unix milliseconds.
func (s *Alertmanagers) ForgetNotifications(ctx context.Context, t tenant.ID, before int64) error {
	all := rows.Prefix(schema.NotificationPrefix(t))
	for {
		old, err := s.expired(ctx, all, before)
		if err != nil {
			return fmt.Errorf("read the notifications of tenant %s: %w", t, err)
		}
		for _, r := range old {
			condition := rows.ValueIs(rows.System, schema.NotificationQualifier, r.value)
			if _, err := s.rows.CheckAndMutate(ctx, r.key, condition, []rows.Mutation{rows.DeleteRow()}, nil); err != nil {
				return fmt.Errorf("delete a notification of tenant %s: %w", t, err)
			}
		}
		if len(old) < forgetBatch {
			return nil
		}
		all.Start = old[len(old)-1].key + "\x00"
	}
}

// storedNotification is a notification with the key of its row.
type storedNotification struct {
	key   string
	value []byte
}

// expired returns the first forgetBatch notifications in a range that expired before a time in Unix milliseconds. It
// skips notifications that cannot be decoded: a newer version may have written them.
func (s *Alertmanagers) expired(ctx context.Context, in rows.Range, before int64) ([]storedNotification, error) {
	var out []storedNotification
	err := s.rows.ReadRows(ctx, []rows.Range{in}, system(schema.NotificationQualifier), func(r rows.Row) bool {
		for _, c := range r.Cells {
			if n, err := schema.DecodeNotification(c.Value); err == nil && n.Expires < before {
				out = append(out, storedNotification{r.Key, c.Value})
			}
		}
		return len(out) < forgetBatch
	})
	return out, err
}
