package gateway

import (
	"strings"
	"testing"
)

func TestFraming(t *testing.T) {
	const (
		plain   = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"
		length  = "POST / HTTP/1.1\r\nContent-Length: 26\r\n\r\nTransfer-Encoding: chunked"
		chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n13;x=y\r\nContent-Length: 5\r\n\r\n0\r\nT: x\r\n\r\n"
		both    = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nA: b\r\nCONTENT-LENGTH: 3\r\n\r\n0\r\n\r\n"
	)
	tests := []struct {
		name, stream string
		want         bool
	}{
		{"plain", plain + plain, false},
		{"a body that looks like a header", length + length + plain, false},
		{"a chunk that looks like a header", chunked + length + plain, false},
		{"both", both, true},
		{"both, later on the connection", plain + length + chunked + both, true},
		{"both, after blank lines", plain + "\r\n\r\n" + both, true},
		{"a length that we cannot see", "POST / HTTP/1.1\r\nContent-Length:" + strings.Repeat(" ", 60) + "10\r\n\r\n0123456789" + plain, true},
		{"both, bare line feeds", "POST / HTTP/1.1\nContent-Length: 1\nTransfer-Encoding: chunked\n\n", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, step := range []int{1, 2, 7, len(tt.stream)} {
				var f framing
				got := false
				for rest := []byte(tt.stream); len(rest) > 0; {
					n := min(step, len(rest))
					got = f.scan(rest[:n]) || got
					rest = rest[n:]
				}
				if got != tt.want {
					t.Errorf("in steps of %d: %v, want %v", step, got, tt.want)
				}
			}
		})
	}
}

func FuzzFraming(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var whole, steps framing
		got := whole.scan(data)
		again := false
		for i := range data {
			if again = steps.scan(data[i : i+1]); again {
				break
			}
		}
		if got != again {
			t.Fatalf("at once %v, byte by byte %v", got, again)
		}
		if len(whole.line) > maxLine {
			t.Fatalf("the line buffer has %d bytes", len(whole.line))
		}
	})
}

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
