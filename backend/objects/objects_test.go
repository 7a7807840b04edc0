package objects

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"l0/20000/00/ingester-1.pk": true, "a": true, "a.b/c'd(e)": true, strings.Repeat("a", MaxNameLength): true, ".x": true, "a/.tmp/b": true,
		"": false, strings.Repeat("a", MaxNameLength+1): false, "/a": false, "a/": false, "a//b": false, ".": false, "..": false, "a/../b": false, "a/./b": false,
		"a b": false, "a\n": false, "ä": false, "a\x00": false, "a.tmp": false, "a/b.tmp": false,
	} {
		if err := CheckName(name); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("CheckName(%q) = %v; want no error: %v", name, err, ok)
		}
	}
}

func TestCheckRange(t *testing.T) {
	for _, tt := range []struct {
		off int64
		n   int
		ok  bool
	}{{0, 1, true}, {math.MaxInt64, 1, true}, {5, MaxRange, true}, {-1, 1, false}, {0, 0, false}, {0, -1, false}, {0, MaxRange + 1, false}} {
		if err := CheckRange(tt.off, tt.n); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("CheckRange of %d bytes from %d = %v; want no error: %v", tt.n, tt.off, err, tt.ok)
		}
	}
}
