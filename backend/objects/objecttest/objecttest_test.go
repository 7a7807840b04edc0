package objecttest

import (
	"context"
	"os"
	"os/exec"
	"testing"

	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/memory"
)

const fault = "PALLIUM_TEST_OBJECTS_FAULT"

// broken is an adapter that breaks one rule of the contract.
type broken struct {
	objects.Store
	fault string
}

func (b broken) Put(ctx context.Context, name, path string, crc uint32) (objects.Object, error) {
	if b.fault == "overwrites" {
		_ = b.Delete(ctx, name)
	}
	return b.Store.Put(ctx, name, path, crc)
}

func (b broken) Get(ctx context.Context, name string, off int64, n int) ([]byte, error) {
	if b.fault == "short" && n > 1 {
		return b.Store.Get(ctx, name, off, n-1)
	}
	return b.Store.Get(ctx, name, off, n)
}

func (b broken) List(ctx context.Context, prefix string, visit func(objects.Object) bool) error {
	if b.fault == "backwards" {
		var all []objects.Object
		if err := b.Store.List(ctx, prefix, func(o objects.Object) bool { all = append(all, o); return true }); err != nil {
			return err
		}
		for i := len(all) - 1; i >= 0 && visit(all[i]); i-- {
		}
		return nil
	}
	return b.Store.List(ctx, prefix, visit)
}

func (b broken) Delete(ctx context.Context, name string) error {
	if b.fault == "strict delete" {
		if _, err := b.Stat(ctx, name); err != nil {
			return err
		}
	}
	return b.Store.Delete(ctx, name)
}

// TestSuite runs the suite with an adapter, which is broken if TestFaults sets a fault.
func TestSuite(t *testing.T) {
	Run(t, func(*testing.T) objects.Store { return broken{memory.New(), os.Getenv(fault)} })
}

// TestFaults checks that the suite fails for a broken adapter.
func TestFaults(t *testing.T) {
	for _, f := range []string{"overwrites", "short", "backwards", "strict delete"} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestSuite$")
		cmd.Env = append(os.Environ(), fault+"="+f)
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("an adapter with the fault %q passes the suite:\n%s", f, out)
		}
	}
}
