package ingester

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/palliumhq/pallium/backend/series"
	"github.com/palliumhq/pallium/policies/limits"
)

// TestDataDirectoryPaths checks that packs are found at the next start, and are
// named relative to their directory, for every form of the data directory's path,
// and if it or the packs' directory is a symbolic link.
func TestDataDirectoryPaths(t *testing.T) {
	for _, form := range []string{"data", "./data", "data/", "data/.", "a/../data", "link", "link/", "packs", "ABS/data", "ABS/data/"} {
		t.Run(strings.ReplaceAll(form, "/", "_"), func(t *testing.T) {
			t.Chdir(t.TempDir())
			here, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{"a", "linked", "packs", "elsewhere"} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			for link, to := range map[string]string{"link": "linked", "packs/l0": "../elsewhere"} {
				if err := os.Symlink(to, link); err != nil {
					t.Fatal(err)
				}
			}
			b := &bench{t: t, dir: strings.Replace(form, "ABS", here, 1), lim: limits.Default()}
			b.set(time.UnixMilli(1_700_000_000_000))
			b.open()
			for range 2 { // in this process and after the next start
				b.push("a", entry(labels.FromStrings("__name__", "m"), series.Sample{T: b.now.UnixMilli(), V: 1}))
				if err := b.ing.Flush(); err != nil {
					t.Fatal(err)
				}
				before := b.ing.Stats().Packs
				if err := b.ing.Close(); err != nil {
					t.Fatal(err)
				}
				b.open()
				packs := b.ing.Stats().Packs
				if len(packs) == 0 || len(packs) != len(before) {
					t.Fatalf("%d packs at the next start, want %d", len(packs), len(before))
				}
				for _, p := range packs {
					if filepath.IsAbs(p.Name) || strings.HasPrefix(p.Name, ".") || strings.Contains(p.Name, "l0") {
						t.Errorf("pack name %q, want a path relative to the directory of the packs", p.Name)
					}
				}
				b.set(b.now.Add(time.Second))
			}
			if err := b.ing.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
