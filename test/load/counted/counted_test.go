package counted

import (
	"context"
	"testing"

	"github.com/palliumhq/pallium/backend/objects"
)

// nested is an object store in which a read of "outer" reads "inner" before it ends.
type nested struct {
	objects.Store
	o *Objects
}

func (n nested) Get(ctx context.Context, name string, off int64, size int) ([]byte, error) {
	if name == "outer" {
		return n.o.Get(ctx, "inner", off, size)
	}
	return make([]byte, size), nil
}

// TestRounds checks that calls in flight together are one round, and others one each.
func TestRounds(t *testing.T) {
	c := &Counter{}
	o := &Objects{Counter: c}
	o.Store = nested{o: o}
	for _, name := range []string{"outer", "inner"} {
		if _, err := o.Get(t.Context(), name, 0, 10); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.Take(); got.Rounds != 2 || got.Gets != 3 || got.GotBytes != 30 {
		t.Errorf("%+v, want 2 rounds, 3 reads and 30 bytes", got)
	}
	if got := c.Take(); got != (Counts{}) {
		t.Errorf("the counts after Take are %+v, want zeros", got)
	}
}
