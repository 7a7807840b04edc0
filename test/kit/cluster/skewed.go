package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Skewed returns the command with which StartWith runs a server with its clock offset
// by a duration such as -5m. The binary is the one in PALLIUM_SKEWED, or the one that
// `make bin/skewed` builds.
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
