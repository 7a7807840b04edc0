package quota

import (
	"testing"
	"time"
)

// TestBucketWaitsAreDurations: also a debt that takes longer to pay than a
// Duration can say.
func TestBucketWaitsAreDurations(t *testing.T) {
	now := time.Unix(1e9, 0)
	var b bucket
	b.take(now, 0.001, 1, 1e13)
	if wait, ok := b.open(now, 0.001, 1, 0); ok || wait < time.Hour {
		t.Errorf("wait %s, %v", wait, ok)
	}
	// A limit that was taken away and given again starts full.
	b.take(now, 0, 0, 1)
	if _, ok := b.open(now, 0.001, 1, 1); !ok {
		t.Error("the debt outlived its limit")
	}
}
