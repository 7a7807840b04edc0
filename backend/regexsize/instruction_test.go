package regexsize

import (
	"runtime"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
)

// TestInstructionBytes checks that InstructionBytes is at least the memory of an instruction in a
// compiled matcher that has run, and that compiling it allocates at most twice as much.
func TestInstructionBytes(t *testing.T) {
	for _, pattern := range []string{`(?:abcd){1000}`, `(?:a|b?c){300}x`, `x{0,900}y`, `(?:[a-c].){500}`, `(?:a*b){1000}`, `(?:\w\d){400}`} {
		n, err := Pattern(pattern, most)
		if err != nil {
			t.Fatal(err)
		}
		var matchers [20]*labels.Matcher // many, so that other objects on the heap make no difference
		of := int64(len(matchers) * n)
		var before, compiled, collected runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range matchers {
			matchers[i] = labels.MustNewMatcher(labels.MatchRegexp, "a", pattern)
			matchers[i].Matches("abcdabcdxy")
		}
		runtime.ReadMemStats(&compiled)
		runtime.GC()
		runtime.ReadMemStats(&collected)
		runtime.KeepAlive(&matchers)
		allocated, live := int64(compiled.TotalAlloc-before.TotalAlloc)/of, (int64(collected.HeapAlloc)-int64(before.HeapAlloc))/of
		if live > InstructionBytes || allocated > 2*InstructionBytes {
			t.Errorf("%s: an instruction takes %d bytes, and %d while it is compiled; it is charged with %d", pattern, live, allocated, InstructionBytes)
		}
	}
}
