package conn

import (
	"net/http"
	"strconv"
)

// boundHeaders applies the limits for lines and memory of HTTP/1 headers to headers of HTTP/2.
// net/http has already decoded them, to many times their size on the wire, and would hold them
// until the client has read the response; boundHeaders drops them when the handler returns.
func boundHeaders(h, own http.Handler) http.Handler {
	long := &headerBudget{limit: headerMemory}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor < 2 {
			h.ServeHTTP(w, r)
			return
		}
		lines, size := headerSize(r)
		switch {
		case lines > maxHeaderLines:
			r.Header = http.Header{}
			reject(w, r, own, tooManyLines())
		case size <= freeHeader:
			h.ServeHTTP(w, r)
		case !long.take(size):
			r.Header = http.Header{}
			reject(w, r, own, noHeaderMemory())
		default:
			defer long.used.Add(-size)
			h.ServeHTTP(w, r)
		}
		r.Header = http.Header{}
	})
}

// headerSize returns the number of lines of a header and its size. RFC 9113 6.5.2 adds 32
// bytes per line.
func headerSize(r *http.Request) (lines int, size int64) {
	size = int64(len(r.RequestURI))
	for name, values := range r.Header {
		lines += len(values)
		for _, v := range values {
			size += int64(len(name) + len(v) + 32)
		}
	}
	return lines, size
}

func tooManyLines() *Rejection {
	return &Rejection{Status: http.StatusRequestHeaderFieldsTooLarge, Reason: "header_too_large",
		Text: "the header has more than " + strconv.Itoa(maxHeaderLines) + " lines"}
}
