package gateway

import (
	"net/http"
	"testing"
)

// TestLengthOfHTTP2 checks Content-Length in HTTP/2, where net/http treats an invalid
// value as 0 and drops the body.
func TestLengthOfHTTP2(t *testing.T) {
	for _, tt := range []struct {
		header   string
		length   int64 // as net/http has it
		rejected bool
	}{
		{"7", 7, false}, {"007", 7, false}, {"0", 0, false},
		{"abc", 0, true}, {"+7", 0, true}, {"", 0, true}, {"7", 0, true}, {"7", -1, true},
	} {
		r := &http.Request{Method: "POST", Proto: "HTTP/2.0", ProtoMajor: 2, ContentLength: tt.length, Header: http.Header{"Content-Length": {tt.header}}}
		if f := checkRequest(r); (f != nil) != tt.rejected {
			t.Errorf("Content-Length %q with a body of %d bytes: rejection %+v", tt.header, tt.length, f)
		}
	}
}

func FuzzCanonicalQuery(f *testing.F) {
	f.Add("query=up&match[]=x")
	f.Add("a=%zz;b")
	f.Fuzz(func(t *testing.T, raw string) {
		once, rejected := canonicalQuery(raw)
		if rejected != nil {
			return
		}
		twice, rejected := canonicalQuery(once)
		if rejected != nil || once != twice {
			t.Fatalf("canonicalQuery(%q) = %q, but canonicalQuery of the result = %q (%v)", raw, once, twice, rejected)
		}
	})
}
