package pebble

import (
	"context"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/palliumhq/pallium/backend/rows"
)

// TestFullDisk checks that writes are rejected before the disk is completely full, and accepted
// again when space is free.
func TestFullDisk(t *testing.T) {
	fs := vfs.NewMem()
	s, err := Open("db", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	set := []rows.Mutation{rows.Set(rows.System, "q", 1, []byte("v"))}
	for _, free := range []uint64{1 << 30, minFree - 1, minFree} {
		fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: free, TotalBytes: 1 << 40})
		_, checked := s.CheckAndMutate(ctx, "b", rows.Condition{Family: rows.System, Qualifier: "q", Test: rows.IsAbsent}, set, set)
		for what, err := range map[string]error{
			"mutate":        s.Mutate(ctx, rows.RowMutation{Key: "a", Mutations: set}),
			"conditional":   checked,
			"delete prefix": s.DeletePrefix(ctx, "c"),
		} {
			if (err != nil) != (free < minFree) || err != nil && !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("%s with %d bytes free: %v", what, free, err)
			}
		}
	}
}
