package control

import (
	"context"
	"fmt"
	"time"

	"github.com/palliumhq/pallium/authn/apikey"
	"github.com/palliumhq/pallium/backend/rows"
)

// RotateToken issues a new key for a token. The old key stays valid for grace, but not beyond the
// token's expiry; a grace above MaxGrace is rejected. With a grace of 0 the old key becomes invalid
// immediately in this process and within a second in others. If the key before the old one is
// still valid, it becomes invalid in the same way.
func (c *Control) RotateToken(ctx context.Context, id string, grace time.Duration) (Token, apikey.Key, error) {
	if grace < 0 || grace > MaxGrace {
		return Token{}, apikey.Key{}, fail(Invalid, "graceSeconds", "graceSeconds is %d: it must be between 0 and %d",
			int64(grace.Seconds()), int64(MaxGrace.Seconds()))
	}
	t, err := c.loadToken(ctx, id)
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	now := c.moment()
	if status := view(t, Policy{}).Status(now); status != TokenActive {
		return Token{}, apikey.Key{}, fail(Conflict, "id", "token %s is %s and cannot be rotated: issue a new one", id, status)
	}
	next := t
	next.Previous, next.PreviousUntil, next.RotatedAt = t.Key, now.Add(grace), now
	if next.PreviousUntil.After(t.ExpiresAt) {
		next.PreviousUntil = t.ExpiresAt
	}
	key, err := c.newKey(ctx, &next)
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	ok, err := c.save(ctx, prefToken+id, t.ETag, &next)
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	if !ok {
		return Token{}, apikey.Key{}, fail(Conflict, "id", "token %s was changed or deleted by another request: read it and try again", id)
	}
	if err := c.publish(ctx, changedKey, t.keyIDs()...); err != nil {
		return Token{}, apikey.Key{}, err
	}
	if t.Previous.ID != "" {
		if err := c.removeIndex(ctx, t.Previous.ID); err != nil {
			return Token{}, apikey.Key{}, err
		}
	}
	out, err := c.join(ctx, []token{next})
	if err != nil {
		return Token{}, apikey.Key{}, err
	}
	return out[0], key, nil
}

// mostConcurrency is the largest limit of a token's requests in progress.
const mostConcurrency = 1_000_000

func checkConcurrency(n int) error {
	if n < 0 || n > mostConcurrency {
		return fail(Invalid, "maxConcurrentRequests", "maxConcurrentRequests is %d: it must be between 0 (no limit) and %d", n, mostConcurrency)
	}
	return nil
}

// UpdateToken replaces the limit of a token's requests in progress, if the token has the given
// ETag. The new limit applies at once in this process, and within a second in others.
func (c *Control) UpdateToken(ctx context.Context, id, etag string, maxConcurrentRequests int) (Token, error) {
	if err := checkConcurrency(maxConcurrentRequests); err != nil {
		return Token{}, err
	}
	t, err := c.loadToken(ctx, id)
	if err != nil {
		return Token{}, err
	}
	if err := match(etag, t.ETag); err != nil {
		return Token{}, err
	}
	next := t
	next.MaxConcurrentRequests = maxConcurrentRequests
	if err := c.replace(ctx, prefToken+id, t.ETag, &next, changedKey, t.keyIDs()...); err != nil {
		return Token{}, err
	}
	out, err := c.join(ctx, []token{next})
	if err != nil {
		return Token{}, err
	}
	return out[0], nil
}

// RevokeToken revokes a token and all its keys, immediately in this process and within a
// second in others. Revoking a token again is not an error, and appends to the change log
// again: the client may be retrying because it got no response, and the first attempt may
// have failed between the record and the change log.
func (c *Control) RevokeToken(ctx context.Context, id string) (Token, error) {
	for {
		t, err := c.loadToken(ctx, id)
		if err != nil {
			return Token{}, err
		}
		if t.RevokedAt.IsZero() {
			etag := t.ETag
			t.RevokedAt = c.moment()
			ok, err := c.save(ctx, prefToken+id, etag, &t)
			if err != nil {
				return Token{}, err
			}
			if !ok {
				continue // changed concurrently, for example rotated: also revoke the new key
			}
		}
		if err := c.publish(ctx, changedKey, t.keyIDs()...); err != nil {
			return Token{}, err
		}
		out, err := c.join(ctx, []token{t})
		if err != nil {
			return Token{}, err
		}
		return out[0], nil
	}
}

// DeleteToken deletes a token if it has the given ETag. Its keys become invalid like
// those of a revoked token.
func (c *Control) DeleteToken(ctx context.Context, id, etag string) error {
	t, err := c.loadToken(ctx, id)
	if err != nil {
		return err
	}
	if err := match(etag, t.ETag); err != nil {
		return err
	}
	return c.removeToken(ctx, t)
}

func (c *Control) removeToken(ctx context.Context, t token) error {
	ok, err := c.remove(ctx, prefToken+t.ID, t.ETag)
	if err != nil {
		return err
	}
	if !ok {
		return stale()
	}
	if err := c.publish(ctx, changedKey, t.keyIDs()...); err != nil {
		return err
	}
	for _, id := range t.keyIDs() {
		if err := c.removeIndex(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (c *Control) removeIndex(ctx context.Context, keyID string) error {
	err := c.store.Mutate(ctx, rows.RowMutation{Key: prefKeyIndex + keyID, Mutations: []rows.Mutation{rows.DeleteRow()}})
	if err != nil {
		return fmt.Errorf("delete key index: %w", err)
	}
	return nil
}
