package dir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
)

func TestContract(t *testing.T) {
	objecttest.Run(t, func(t *testing.T) objects.Store {
		s, err := Open(t.TempDir(), "l0", "l1")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// TestOnlyOurs checks that files outside the allowed first segments are neither read nor changed.
func TestOnlyOurs(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"other/x.tmp", "l1/a/half.tmp", "l1/a/whole"} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("x"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(root, "l0", "l1")
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	if err := s.List(context.Background(), "", func(o objects.Object) bool { seen = append(seen, o.Name); return true }); err != nil || len(seen) != 1 || seen[0] != "l1/a/whole" {
		t.Errorf("List() = %q, %v; want only l1/a/whole", seen, err)
	}
	if _, err := os.Stat(filepath.Join(root, "other/x.tmp")); err != nil {
		t.Error("a file outside the first segments was deleted")
	}
	if _, err := os.Stat(filepath.Join(root, "l1/a/half.tmp")); err == nil {
		t.Error("an incomplete copy still exists")
	}
	if err := s.Delete(context.Background(), "other/x"); !errors.Is(err, objects.ErrInvalid) {
		t.Errorf("Delete of a file outside the first segments: %v", err)
	}
}
