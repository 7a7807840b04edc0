package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Skewed is the command for StartWith of a server whose clock is off by an offset, such
// as -5m. The binary is that of PALLIUM_SKEWED, else what `make bin/skewed` builds.
func Skewed(offset string) (string, error) {
	_, file, _, _ := runtime.Caller(0)
	dir := filepath.Dir(file)
	path := os.Getenv("PALLIUM_SKEWED")
	if path == "" {
		path = filepath.Join(dir, "..", "..", "..", "bin", "skewed")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("run `make bin/skewed`: %w", err)
	}
	return fmt.Sprintf("sh %s %s %s", filepath.Join(dir, "skewed.sh"), path, offset), nil
}
