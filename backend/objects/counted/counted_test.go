package counted

import (
	"testing"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
)

func TestContract(t *testing.T) {
	objecttest.Run(t, func(*testing.T) objects.Store { return New(memory.New()) })
}

func TestCounts(t *testing.T) {
	inner := memory.New()
	inner.Replace("l0/a", []byte("abc"))
	s := New(inner)
	for range 2 {
		if _, err := s.Get(t.Context(), "l0/a", 0, 3); err != nil {
			t.Fatal(err)
		}
	}
	if s.Gets.Load() != 2 || s.Bytes.Load() != 6 {
		t.Errorf("%d reads, %d bytes, want 2 and 6", s.Gets.Load(), s.Bytes.Load())
	}
}
