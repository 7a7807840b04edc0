package quota

import (
	"testing"
	"time"
)

// TestBucketWaitsAreDurations checks that the wait for a debt that takes longer to pay
// than a Duration can represent does not overflow.
func TestBucketWaitsAreDurations(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b bucket
	b.take(now, 0.001, 1, 1e13)
	if wait, ok := b.open(now, 0.001, 1, 0); ok || wait < time.Hour {
		t.Errorf("open() = %s, %v, want a wait of more than an hour", wait, ok)
	}
	// A limit that was removed and set again starts with a full bucket.
	b.take(now, 0, 0, 1)
	if _, ok := b.open(now, 0.001, 1, 1); !ok {
		t.Error("the debt still exists after the limit was removed")
	}
}
