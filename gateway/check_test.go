package gateway

import "testing"

func FuzzCanonicalQuery(f *testing.F) {
	f.Add("query=up&match[]=x")
	f.Add("a=%zz;b")
	f.Fuzz(func(t *testing.T, raw string) {
		once, refused := canonicalQuery(raw)
		if refused != nil {
			return
		}
		twice, refused := canonicalQuery(once)
		if refused != nil || once != twice {
			t.Fatalf("%q became %q, then %q (%v)", raw, once, twice, refused)
		}
	})
}
