package faulty

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/palliumhq/pallium/backend/disk"
	"github.com/palliumhq/pallium/backend/faults"
	"github.com/palliumhq/pallium/backend/objects"
	"github.com/palliumhq/pallium/backend/objects/memory"
	"github.com/palliumhq/pallium/backend/objects/objecttest"
)

// TestContract checks that Store keeps the contract if the plan has no fault.
func TestContract(t *testing.T) {
	objecttest.Run(t, func(*testing.T) objects.Store { return Store{memory.New(), &faults.Plan{}} })
}

// TestFaults checks which faults happen before and which after the call took effect.
func TestFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	crc := disk.Checksum([]byte("x"))
	for kind, stored := range map[faults.Kind]bool{faults.Rejected: false, faults.Lost: true, faults.Killed: false, faults.KilledAfter: true} {
		inner, plan := memory.New(), &faults.Plan{}
		plan.Fail(1, kind)
		if _, err := (Store{inner, plan}).Put(t.Context(), "l0/a", path, crc); !errors.Is(err, faults.ErrInjected) {
			t.Errorf("%s: Put returned %v, want ErrInjected", kind, err)
		}
		if _, err := inner.Stat(t.Context(), "l0/a"); (err == nil) != stored {
			t.Errorf("%s: Stat returned %v; want the object: %v", kind, err, stored)
		}
	}
}
